package api_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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
const driver = `
const answer = await fetch("/test-media");
const file = new File([await answer.arrayBuffer()], answer.headers.get("X-Name"), { type: answer.headers.get("Content-Type") });
await takeFile(file);
$("latent").value = 1;
await showAttention();
document.body.dataset.latent = $("latent-name").textContent;
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
			site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/test-media":
					w.Header().Set("Content-Type", c.kind)
					w.Header().Set("X-Name", filepath.Base(c.file))
					w.Write(readMedia(t, c.file))
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
			flags := []string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
				"--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-unsafe-swiftshader",
				"--hide-scrollbars", "--window-size=1300,1300", "--virtual-time-budget=10000", "--user-data-dir=" + t.TempDir()}
			if dir := os.Getenv("MMSERVE_SCREENSHOTS"); dir != "" {
				shot := filepath.Join(dir, strings.ReplaceAll(c.kind, "/", "-")+".png")
				exec.CommandContext(t.Context(), browser, append(flags, "--screenshot="+shot, site.URL+"/ui/")...).Run()
			}
			cmd := exec.CommandContext(t.Context(), browser, append(flags, "--dump-dom", site.URL+"/ui/")...)
			var log strings.Builder
			cmd.Stderr = &log
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, log.String())
			}
			dom := string(out)
			for _, want := range []string{`data-done="1"`, `data-latent="1"`, c.want, `class="bar"`, "latents × 256", "FLOP", "curl --data-binary"} {
				if !strings.Contains(dom, want) {
					t.Errorf("the page lacks %q", want)
				}
			}
			if i := strings.Index(dom, "data-failed="); i >= 0 {
				t.Errorf("the page says %.200s", dom[i:])
			}
		})
	}
}
