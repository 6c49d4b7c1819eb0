;; Reports a state for stream after stream.
;; run: --limit streams=1000
(func $behave (local $name i32)
  (loop $more
    (i32.store (i32.const 100) (i32.add (i32.const 0x21212121) (local.get $name)))
    (call $stream_status (i32.const 100) (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0))
    (local.set $name (i32.add (local.get $name) (i32.const 1)))
    (if (i32.eq (i32.and (local.get $name) (i32.const 0x3f)) (i32.const 0x3f))
      (then (local.set $name (i32.add (local.get $name) (i32.const 0xc1)))))
    (if (i32.eq (i32.and (local.get $name) (i32.const 0x3f00)) (i32.const 0x3f00))
      (then (local.set $name (i32.add (local.get $name) (i32.const 0xc100)))))
    (br $more)))
