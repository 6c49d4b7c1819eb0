;; Gives the host room that it does not have.
(func $realloc (param i32 i32 i32 i32) (result i32) (i32.const -8))
