;; Computes for ever while the host asks it for room for its own arguments.
;; run: --limit cpu_between_waits=1s
(func $realloc (param i32 i32 i32 i32) (result i32)
  (loop $for_ever (br $for_ever))
  unreachable)
