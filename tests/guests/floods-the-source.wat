;; Submits requests and takes no answer.
(data (i32.const 100) "/api/v4/user")
(func $behave
  (loop $more
    (drop (call $submit
    (i32.const 0) (i32.const 100) (i32.const 12) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)))
    (br $more)))
