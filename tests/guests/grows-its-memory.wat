;; Takes memory until there is none.
(func $behave
  (loop $more
    (drop (memory.grow (i32.const 16)))
    (br $more)))
