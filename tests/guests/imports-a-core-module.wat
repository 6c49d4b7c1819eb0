;; Wants a module to be put into it.
(component
  (import "module" (core module))
  (instance $source)
  (export "cortexdb:connector/source@0.1.0" (instance $source)))
