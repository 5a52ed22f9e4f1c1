package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// browser is a page in headless Chromium. It notes what the page writes to the console, and where it asks for something.
type browser struct {
	t      *testing.T
	ctx    context.Context
	origin string
	close  func()

	mu      sync.Mutex
	console []string
	foreign []string
}

// view of a page.
type look struct {
	width, height int64
	dark, phone   bool
	language      string // Accept-Language; empty: en
}

// openPage opens an address in a browser of its own.
func openPage(t *testing.T, address string, l look) *browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if p, err := exec.LookPath(name); err == nil && path == "" {
			path = p
		}
	}
	if path == "" {
		t.Fatal("the tests of the page need Chromium: .ci/prepare test installs it, or sudo apt-get install chromium")
	}
	if l.language == "" {
		l.language = "en"
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.Flag("accept-lang", l.language), chromedp.WSURLReadTimeout(wait))
	allocated, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(allocated)
	b := &browser{t: t, ctx: ctx, origin: strings.TrimSuffix(address, "/")}
	b.close = sync.OnceFunc(func() { _ = chromedp.Cancel(ctx); cancel() }) // it may have died
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText`)) // the browser may be gone
			t.Logf("the page:\n%s\nconsole: %q", text, b.console)
		}
		b.close()
	})
	messages := chromedp.Console(ctx)
	requests := chromedp.Events(ctx, network.RequestWillBeSent)
	go func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			if m.Type == chromedp.ConsoleError || m.Type == chromedp.ConsoleWarning || m.IsException() {
				b.mu.Lock()
				b.console = append(b.console, m.String()+" "+m.URL)
				b.mu.Unlock()
			}
		}
	}()
	go func() {
		for r, err := range requests {
			if err != nil {
				return
			}
			if url := r.Request.URL; !strings.HasPrefix(url, b.origin+"/") && !strings.HasPrefix(url, "data:") {
				b.mu.Lock()
				b.foreign = append(b.foreign, url)
				b.mu.Unlock()
			}
		}
	}()
	b.do(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
			return err
		}
		scheme := "light"
		if l.dark {
			scheme = "dark"
		}
		_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		return err
	}))
	if l.width == 0 {
		l.width, l.height = 1280, 900
	}
	var viewport []chromedp.EmulateViewportOption
	if l.phone {
		viewport = append(viewport, chromedp.EmulateScale(2), chromedp.EmulateMobile, chromedp.EmulateTouch)
	}
	b.do(chromedp.EmulateViewport(l.width, l.height, viewport...))
	b.do(chromedp.Navigate(address))
	return b
}

// do does something with the page.
func (b *browser) do(a chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, wait)
	defer cancel()
	if _, err := chromedp.Run(ctx, a); err != nil {
		b.t.Fatal(err)
	}
}

// eval gives what an expression is worth.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// until waits until an expression is true.
func (b *browser) until(expression string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, wait)
	defer cancel()
	for {
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`Boolean(`+expression+`)`))
		switch {
		case err != nil:
			b.t.Fatalf("waiting for %s: %v", expression, err)
		case ok:
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// has waits until an element's text holds something.
func (b *browser) has(selector, text string) {
	b.t.Helper()
	b.until(fmt.Sprintf(`document.querySelector(%q)?.innerText.includes(%q)`, selector, text))
}

// text gives an element's text.
func (b *browser) text(selector string) string {
	b.t.Helper()
	return eval[string](b, fmt.Sprintf(`document.querySelector(%q).innerText`, selector))
}

// click clicks as a mouse does, once the element is there and enabled.
func (b *browser) click(selector string) {
	b.t.Helper()
	b.until(fmt.Sprintf(`(e => e && !e.disabled && e.getClientRects().length)(document.querySelector(%q))`, selector))
	b.do(chromedp.Click(selector, chromedp.NodeVisible))
}

// keys presses keys, whatever has the focus.
func (b *browser) keys(keys string) { b.t.Helper(); b.do(chromedp.KeyEvent(keys)) }

// clean checks that the page wrote no error to the console and asked nobody else for anything. Allowed are the console's lines that hold one of these.
func (b *browser) clean(allowed ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.foreign) > 0 {
		b.t.Errorf("the page asks others: %q", b.foreign)
	}
next:
	for _, line := range b.console {
		for _, a := range allowed {
			if strings.Contains(line, a) {
				continue next
			}
		}
		b.t.Errorf("console: %s", line)
	}
}
