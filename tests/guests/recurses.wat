;; Calls itself.
(func $behave (call $behave))
