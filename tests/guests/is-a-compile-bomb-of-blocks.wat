;; As many locals as may be, and more loops than may be beside them.
(func $bomb {{1900:(local i32) }} {{1900:(loop }} {{1900:) }})
