// Keeps a page fresh: when the server says that something changed, the page is fetched again and its main part replaced. Without this
// script every page works and is as fresh as its last loading.
(function () {
  "use strict";
  var main = document.querySelector("main[data-live]");
  if (!main || !window.EventSource) { return; }
  var LATER = 30000;
  var opened = function () {
    return Array.from(document.querySelectorAll("details[open]")).map(function (one) { return one.id; });
  };
  var busy = false;
  var over = false;
  var refresh = function () {
    // Somebody is about to press a button or has text selected: next time.
    if (busy || String(window.getSelection()) !== "") { return; }
    busy = true;
    fetch(window.location.href, { credentials: "same-origin" })
      .then(function (answer) {
        // To the login: the session has ended, and nothing is asked for any more.
        over = answer.redirected;
        return answer.ok && !over ? answer.text() : null;
      })
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
  };
  var listen = function () {
    var changes = new EventSource("/events");
    changes.addEventListener("change", refresh);
    changes.addEventListener("error", function () {
      // The browser asks again by itself after a break, but never after a refusal, such as for want of a place. Until there is one the
      // page looks for itself.
      if (over || changes.readyState !== EventSource.CLOSED) { return; }
      window.setTimeout(function () { refresh(); listen(); }, LATER);
    });
  };
  listen();
})();
