package api_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/api"
)

// The examples for curl and plain Python run against a live server, where there are such
// interpreters.
func TestExamples(t *testing.T) {
	s := newSite(t, &api.Server{})
	for _, c := range []struct {
		needs []string
		args  []string
		want  []string
	}{
		{[]string{"sh", "curl"}, []string{"sh", "../examples/http/routes.sh"}, []string{`"modality":"image"`, `"modality":"pointcloud"`, `"modality":"latents"`, `"embedding"`, `"finish_reason":"length"`, `"alive"`, `mmserve_requests_total`}},
		{[]string{"python3"}, []string{"python3", "../examples/http/encode.py", filepath.Join(mediaDir, "audio/fsdd-7_george_0.wav")}, []string{"audio [", "'digit': '7'", "cosine"}},
	} {
		t.Run(filepath.Base(c.args[1]), func(t *testing.T) {
			for _, n := range c.needs {
				if _, err := exec.LookPath(n); err != nil {
					t.Skipf("%s is not installed", n)
				}
			}
			cmd := exec.CommandContext(t.Context(), c.args[0], c.args[1:]...)
			cmd.Env = append(os.Environ(), "MMSERVE="+s.URL, "MEDIA="+mediaDir, "no_proxy=127.0.0.1")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			for _, w := range c.want {
				if !strings.Contains(string(out), w) {
					t.Errorf("lacks %q:\n%s", w, out)
				}
			}
		})
	}
}
