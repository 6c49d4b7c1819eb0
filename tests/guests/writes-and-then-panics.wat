;; Hands over a record, sets the cursor behind it, and panics. The record is stored and its cursor saved, as if nothing had happened.
(data (i32.const 1000) "gl:issue:1/1")
(data (i32.const 200) "after the first page")
(data (i32.const 300) "{}")
(func $behave
  (call $write_one (i32.const 12))
  (call $set (i32.const 43040) (i32.const 8) (i32.const 1) (i32.const 300) (i32.const 2))
  (call $log (i32.const 4) (i32.const 200) (i32.const 20) (i32.const 0) (i32.const 0))
  unreachable)
