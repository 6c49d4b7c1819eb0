;; A connector that calls itself `gitlab`, so that it is given the same source and the same variables.
(data (i32.const 40000) "gitlab")
(data (i32.const 40010) "0.0.0")
(data (i32.const 40020) "hostile")
(data (i32.const 40030) "{}")
(data (i32.const 40040) "PRIVATE-TOKEN")
(data (i32.const 40060) "project_path")
(data (i32.const 40080) "org:<org>/source:gitlab/project:{project_path}")
(func $text (param $at i32) (param $pointer i32) (param $length i32)
  (i32.store (local.get $at) (local.get $pointer))
  (i32.store offset=4 (local.get $at) (local.get $length)))
(func $describe (result i32)
  (call $text (i32.const 41000) (i32.const 40000) (i32.const 6)) ;; name
  (call $text (i32.const 41008) (i32.const 40010) (i32.const 5)) ;; version
  (call $text (i32.const 41016) (i32.const 40020) (i32.const 7)) ;; summary
  (call $text (i32.const 41032) (i32.const 40030) (i32.const 2)) ;; settings-schema
  (i32.store (i32.const 41204) (i32.const 40040)) ;; authentication: header
  (i32.store (i32.const 41208) (i32.const 13))
  (call $text (i32.const 41052) (i32.const 41200) (i32.const 1))
  (call $text (i32.const 41220) (i32.const 40060) (i32.const 12)) ;; scope-variables
  (call $text (i32.const 41068) (i32.const 41220) (i32.const 1))
  (call $text (i32.const 41076) (i32.const 40080) (i32.const 46)) ;; default-scope-template
  (i32.const 41000))
