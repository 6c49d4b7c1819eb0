;; Turns off stream after stream, each with many words.
(func $behave (local $name i32)
  (memory.fill (i32.const 50000) (i32.const 0x61) (i32.const 8192))
  (loop $more
    (i32.store (i32.const 100) (i32.add (i32.const 0x21212121) (local.get $name)))
    (call $stream_status (i32.const 100) (i32.const 4) (i32.const 2) (i32.const 50000) (i32.const 8192))
    (local.set $name (i32.add (local.get $name) (i32.const 1)))
    (if (i32.eq (i32.and (local.get $name) (i32.const 0x3f)) (i32.const 0x3f))
      (then (local.set $name (i32.add (local.get $name) (i32.const 0xc1)))))
    (if (i32.eq (i32.and (local.get $name) (i32.const 0x3f00)) (i32.const 0x3f00))
      (then (local.set $name (i32.add (local.get $name) (i32.const 0xc100)))))
    (br $more)))
