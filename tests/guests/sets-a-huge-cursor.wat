;; Sets a cursor of 70,000 bytes.
(data (i32.const 100) "1/issues")
(memory $memory 8)
(func $behave
  (memory.fill (i32.const 131072) (i32.const 0x61) (i32.const 70000))
  (call $set (i32.const 100) (i32.const 8) (i32.const 1) (i32.const 131072) (i32.const 70000)))
