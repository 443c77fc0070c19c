// A browser lets a page that was opened from the disk start no Worker. The search then runs in a hidden frame, which
// takes and gives messages like a Worker. Pages of a server keep the browser's own.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      const inner = this.frame.contentWindow;
      this.loaded = new Promise((resolve) => {
        inner.document.open();
        inner.document.write("<!doctype html><body></body>");
        inner.document.close();
        // What a worker's script calls to answer, and to load other scripts.
        inner.postMessage = (data) => {
          const event = new MessageEvent("message", { data });
          this.dispatchEvent(event);
          if (this.onmessage) this.onmessage(event);
        };
        inner.importScripts = (...urls) =>
          urls.reduce((before, one) => before.then(() => this.run(one)), Promise.resolve());
        this.run(url).then(resolve);
      });
    }

    run(url) {
      return new Promise((resolve, reject) => {
        const script = this.frame.contentDocument.createElement("script");
        script.src = url;
        script.onload = resolve;
        script.onerror = reject;
        this.frame.contentDocument.body.appendChild(script);
      });
    }

    postMessage(data) {
      this.loaded.then(() =>
        this.frame.contentWindow.dispatchEvent(
          new this.frame.contentWindow.MessageEvent("message", { data: structuredClone(data) }),
        ),
      );
    }

    terminate() {
      this.frame.remove();
    }
  };
}
