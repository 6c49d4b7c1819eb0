;; Sets the same cursor, as fast as it can: the queue to the writer must not become its memory.
;; run: --limit host_calls=200000
(data (i32.const 100) "1/issues")
(memory $memory 8)
(func $behave
  (memory.fill (i32.const 131072) (i32.const 0x61) (i32.const 60000))
  (loop $more
    (call $set (i32.const 100) (i32.const 8) (i32.const 1) (i32.const 131072) (i32.const 100))
    (br $more)))
