;; Hands over the same record, for ever.
;; run: --limit experiences=5000
(data (i32.const 1000) "gl:issue:1/1")
(func $behave
  (loop $more
    (call $write_one (i32.const 12))
    (br $more)))
