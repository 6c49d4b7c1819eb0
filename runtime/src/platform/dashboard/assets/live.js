// Keeps a page fresh: when the server says that something changed, the page is fetched again and its main part replaced. Without this
// script every page works and is as fresh as its last loading.
(function () {
  "use strict";
  var main = document.querySelector("main[data-live]");
  if (!main || !window.EventSource) { return; }
  var opened = function () {
    return Array.from(document.querySelectorAll("details[open]")).map(function (one) { return one.id; });
  };
  var busy = false;
  new EventSource("/events").addEventListener("change", function () {
    // Somebody is about to press a button or has text selected: next time.
    if (busy || String(window.getSelection()) !== "") { return; }
    busy = true;
    fetch(window.location.href, { credentials: "same-origin" })
      .then(function (answer) { return answer.ok && !answer.redirected ? answer.text() : null; })
      .then(function (text) {
        busy = false;
        if (text === null) { return; }
        var fresh = new DOMParser().parseFromString(text, "text/html").querySelector("main");
        if (!fresh) { return; }
        var open = opened();
        main.replaceChildren.apply(main, Array.from(fresh.childNodes));
        open.forEach(function (id) {
          var one = id && document.getElementById(id);
          if (one) { one.open = true; }
        });
      })
      .catch(function () { busy = false; });
  });
})();
