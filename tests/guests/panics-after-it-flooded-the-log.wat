;; Logs until its lines are dropped, and panics then: the message is still told.
;; run: --limit log_lines=5
(data (i32.const 100) "noise")
(data (i32.const 200) "the reason")
(func $behave (local $left i32)
  (local.set $left (i32.const 50))
  (loop $more
    (call $log (i32.const 2) (i32.const 100) (i32.const 5) (i32.const 0) (i32.const 0))
    (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
  (call $log (i32.const 4) (i32.const 200) (i32.const 10) (i32.const 0) (i32.const 0))
  unreachable)
