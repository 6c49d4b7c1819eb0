;; Wants a function that belongs to no interface.
(component
  (import "system" (func (param "command" string)))
  (instance $source)
  (export "cortexdb:connector/source@0.1.0" (instance $source)))
