;; Names its project so that it would be another organisation's, if it were not encoded.
(data (i32.const 1000) "gl:issue:1/1")
(data (i32.const 2000) "x/../../org:victim/user:root")
(func $behave
  (call $fill (i32.const 12))
  (i32.store (i32.const 44208) (i32.const 2000))
  (i32.store (i32.const 44212) (i32.const 28))
  (call $hand_over))
