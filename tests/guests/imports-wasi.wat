;; Wants the environment.
(component
  (import "wasi:cli/environment@0.2.0" (instance))
  (instance $source)
  (export "cortexdb:connector/source@0.1.0" (instance $source)))
