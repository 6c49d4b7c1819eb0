;; Called when the host has read the result of `sync`.
(func $after_sync (param i32))
