package api_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mmserve/mmserve/api"
)

// The page's files come with a policy that allows no inline code and no other origin, and
// keep to it.
func TestPageFiles(t *testing.T) {
	s := newSite(t, &api.Server{})
	for _, file := range []string{"", "page.js", "paint.js", "snippets.js", "page.css"} {
		a := s.want(s.do("GET", "/ui/"+file, nil), 200)
		policy := a.header.Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: policy %q", file, policy)
		}
		for _, banned := range []string{"https://", "//cdn", "onclick=", "style=\"", "eval(", "innerHTML"} {
			if strings.Contains(string(a.body), banned) {
				t.Errorf("%s holds %q", file, banned)
			}
		}
	}
	for _, file := range []string{"none.js", "../ui.go", "%2e%2e/ui.go", "page", "index.html/"} {
		if a := s.do("GET", "/ui/"+file, nil); a.status != 404 {
			t.Errorf("%s: %d", file, a.status)
		}
	}
	off := newSite(t, &api.Server{NoUI: true})
	off.want(off.do("GET", "/ui/", nil), 404)
	off.want(off.do("GET", "/", nil), 200)
}

// driver is what a test adds to page.js: it gives the page a file as a drop would.
// When all is shown, or something went wrong, it sends the page as it then is.
const driver = `
try {
  const answer = await fetch("/test-media");
  const file = new File([await answer.arrayBuffer()], answer.headers.get("X-Name"), { type: answer.headers.get("Content-Type") });
  await takeFile(file);
  $("latent").value = 1;
  await showAttention();
  document.body.dataset.latent = $("latent-name").textContent;
} catch (e) {
  document.body.dataset.thrown = String(e);
}
await fetch("/test-done", { method: "POST", body: document.documentElement.outerHTML });
`

// A real browser shows each medium: tasks, latents, attention, cost. MMSERVE_SCREENSHOTS names
// a folder that then gets a picture of each.
func TestPageInABrowser(t *testing.T) {
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			browser = p
			break
		}
	}
	if browser == "" {
		t.Skip("no Chromium is installed: the page is not tried in a browser")
	}
	for _, c := range []struct{ file, kind, want string }{
		{"image/go-video-001.rgb.jpeg", "image/jpeg", "cropped from 150×103"},
		{"audio/fsdd-7_george_0.wav", "audio/wav", "resampled from 8000"},
		{"pointcloud/pyntcloud-diamond.ply", "application/octet-stream", "points asked for"},
		{"text/udhr_eng.txt", "text/plain", "cut to"},
	} {
		t.Run(c.kind, func(t *testing.T) {
			s := &api.Server{Store: newStore(), Default: "default"}
			h := s.Handler()
			pages := make(chan string, 1)
			site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/test-media":
					w.Header().Set("Content-Type", c.kind)
					w.Header().Set("X-Name", filepath.Base(c.file))
					w.Write(readMedia(t, c.file))
				case "/test-done":
					b, _ := io.ReadAll(r.Body) // a cut page fails below for what it lacks
					select {
					case pages <- string(b):
					default:
					}
				case "/ui/page.js":
					rec := httptest.NewRecorder()
					h.ServeHTTP(rec, r)
					w.Header().Set("Content-Type", "text/javascript")
					w.Write(append(rec.Body.Bytes(), driver...))
				default:
					h.ServeHTTP(w, r)
				}
			}))
			defer site.Close()
			profile, err := os.MkdirTemp("", "mmserve-page-")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(profile) // the browser's children may still write to it for a moment
			flags := []string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
				"--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-unsafe-swiftshader",
				"--hide-scrollbars", "--window-size=1300,1300", "--user-data-dir=" + profile}
			if dir := os.Getenv("MMSERVE_SCREENSHOTS"); dir != "" {
				shot := filepath.Join(dir, strings.ReplaceAll(c.kind, "/", "-")+".png")
				exec.CommandContext(t.Context(), browser, append(flags, "--virtual-time-budget=10000", "--screenshot="+shot, site.URL+"/ui/")...).Run()
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, browser, append(flags, "--remote-debugging-port=0", site.URL+"/ui/")...)
			cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
			cmd.WaitDelay = 10 * time.Second
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			var dom string
			select {
			case dom = <-pages:
				cancel()
				<-ended
			case err := <-ended:
				t.Fatalf("the browser ended before the page was done: %v", err)
			}
			for _, want := range []string{`data-done="1"`, `data-latent="1"`, c.want, `class="bar"`, "latents × 256", "FLOP", "curl --data-binary"} {
				if !strings.Contains(dom, want) {
					t.Errorf("the page lacks %q", want)
				}
			}
			for _, bad := range []string{"data-failed=", "data-thrown="} {
				if i := strings.Index(dom, bad); i >= 0 {
					t.Errorf("the page says %.200s", dom[i:])
				}
			}
		})
	}
}
