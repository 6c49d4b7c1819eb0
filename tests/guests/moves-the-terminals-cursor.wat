;; Reports and logs escape sequences and text that turns the line around.
(data (i32.const 100) "1/\1b[2J")
(data (i32.const 200) "\1b]0;title\07\e2\80\ae gpj.exe")
(func $behave
  (call $log (i32.const 3) (i32.const 200) (i32.const 22) (i32.const 0) (i32.const 0))
  (call $stream_status (i32.const 100) (i32.const 6) (i32.const 3) (i32.const 200) (i32.const 22)))
