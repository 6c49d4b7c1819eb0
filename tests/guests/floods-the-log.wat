;; Logs thirty thousand lines. That ends nothing.
(data (i32.const 100) "look at me")
(func $behave (local $left i32)
  (local.set $left (i32.const 30000))
  (loop $more
    (call $log (i32.const 2) (i32.const 100) (i32.const 10) (i32.const 0) (i32.const 0))
    (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))
