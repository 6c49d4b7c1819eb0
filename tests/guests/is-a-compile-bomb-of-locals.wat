;; 6,000 locals and 6,000 loops in one function: 99 KB that would take 21 seconds and 2.2 GiB to compile.
(func $bomb {{6000:(local i32) }} {{6000:(loop }} {{6000:) }})
