;; Makes handles until there are none.
(import "[export]test:guest/handles" "[resource-new]handle" (func $new (param i32) (result i32)))
(func $behave
  (loop $more
    (drop (call $new (i32.const 1)))
    (br $more)))
