;; Asks for a request a minute from now, again and again, and waits.
;; run: --limit run_time=2s
(data (i32.const 100) "/api/v4/user")
(func $behave
  (loop $more
    (drop (call $submit
    (i32.const 0) (i32.const 100) (i32.const 12) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 60000) (i32.const 0) (i32.const 0)))
    (call $next (i32.const 200))
    (br $more)))
