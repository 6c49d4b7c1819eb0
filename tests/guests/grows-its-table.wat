;; Takes table elements until there are none.
(table $table 1 funcref)
(func $behave
  (loop $more
    (drop (table.grow $table (ref.null func) (i32.const 1000)))
    (br $more)))
