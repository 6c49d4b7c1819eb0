;; Sets the headers that are the host's. The request is refused; it traps where it is not.
(data (i32.const 100) "/api/v4/user")
(data (i32.const 200) "private-token")
(data (i32.const 300) "other")
(func $behave
  (i32.store (i32.const 400) (i32.const 200))
  (i32.store (i32.const 404) (i32.const 13))
  (i32.store (i32.const 408) (i32.const 300))
  (i32.store (i32.const 412) (i32.const 5))
  (drop (call $submit
    (i32.const 0) (i32.const 100) (i32.const 12) (i32.const 0) (i32.const 0) (i32.const 400) (i32.const 1)
    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)))
  (call $next (i32.const 1000))
  (if (i32.or (i32.ne (i32.load8_u (i32.const 1016)) (i32.const 1)) (i32.ne (i32.load8_u (i32.const 1024)) (i32.const 0)))
    (then unreachable)))
