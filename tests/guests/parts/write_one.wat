;; Hands over one record. Its source id is at 1000, its text, its time and where it comes from are always the same.
(data (i32.const 43000) "a text")
(data (i32.const 43010) "2026-01-01T00:00:00Z")
(data (i32.const 43040) "1/issues")
(data (i32.const 43050) "project/1")
(data (i32.const 43060) "project_path")
(data (i32.const 43080) "acme/widget")
(data (i32.const 43100) "issue")
(func $pair (param $at i32) (param $pointer i32) (param $length i32)
  (i32.store (local.get $at) (local.get $pointer))
  (i32.store offset=4 (local.get $at) (local.get $length)))
;; An experience at 44000, a variable of the origin at 44200.
(func $fill (param $id_length i32)
  (call $pair (i32.const 44000) (i32.const 1000) (local.get $id_length)) ;; source-id
  (call $pair (i32.const 44008) (i32.const 43100) (i32.const 5)) ;; event-type
  (call $pair (i32.const 44020) (i32.const 43000) (i32.const 6)) ;; content
  (call $pair (i32.const 44028) (i32.const 43010) (i32.const 20)) ;; observed-at
  (call $pair (i32.const 44200) (i32.const 43060) (i32.const 12))
  (call $pair (i32.const 44208) (i32.const 43080) (i32.const 11)))
;; Answers at 44400: 0 where it was taken.
(func $hand_over
  (call $write
    (i32.const 43040) (i32.const 8)
    (i32.const 43050) (i32.const 9)
    (i32.const 44200) (i32.const 1)
    (i32.const 44000) (i32.const 1)
    (i32.const 44400)))
(func $write_one (param $id_length i32)
  (call $fill (local.get $id_length))
  (call $hand_over))
