;; Reads a cursor, for ever.
;; run: --limit host_calls=100000
(data (i32.const 100) "key")
(func $behave
  (loop $for_ever
    (call $get (i32.const 100) (i32.const 3) (i32.const 200))
    (br $for_ever)))
