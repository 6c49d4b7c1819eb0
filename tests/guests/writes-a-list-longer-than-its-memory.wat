;; Hands over 100 million records that are not there.
(func $behave
  (call $fill (i32.const 1))
  (call $write
    (i32.const 43040) (i32.const 8) (i32.const 43050) (i32.const 9) (i32.const 0) (i32.const 0)
    (i32.const 44000) (i32.const 100000000) (i32.const 44400)))
