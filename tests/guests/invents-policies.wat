;; Skips records under a thousand names. That ends nothing: the receipt has a hundred and the rest.
(data (i32.const 100) "1/issues")
(func $behave (local $name i32)
  (loop $more
    (i32.store8 (i32.const 200) (i32.add (i32.const 0x30) (i32.and (local.get $name) (i32.const 31))))
    (i32.store8 (i32.const 201) (i32.add (i32.const 0x30) (i32.shr_u (local.get $name) (i32.const 5))))
    (call $skip (i32.const 100) (i32.const 8) (i32.const 200) (i32.const 2) (i64.const 1))
    (br_if $more (i32.lt_u (local.tee $name (i32.add (local.get $name) (i32.const 1))) (i32.const 1000)))))
