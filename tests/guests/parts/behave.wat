;; Does nothing.
(func $behave)
