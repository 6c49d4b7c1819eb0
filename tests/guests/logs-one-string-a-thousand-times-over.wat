;; Logs fields that are all the same mebibyte: a small memory that would be a large one when it is copied.
(memory $memory 64)
(func $behave (local $at i32)
  (local.set $at (i32.const 1000))
  (loop $fields
    (i32.store (local.get $at) (i32.const 131072))
    (i32.store offset=4 (local.get $at) (i32.const 1048576))
    (local.set $at (i32.add (local.get $at) (i32.const 8)))
    (br_if $fields (i32.lt_u (local.get $at) (i32.const 17000))))
  (call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 1000) (i32.const 1000)))
