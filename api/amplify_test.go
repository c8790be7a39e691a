package api_test

import (
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/api"
)

// Requests that are small on the wire and name very much are refused before any of it is held.
func TestAmplification(t *testing.T) {
	s := newSite(t, &api.Server{Store: newFake(1).store()})
	const n = 1 << 20
	head := `{"inputs":[{"name":"text","datatype":"BYTES","shape":[1048576],"parameters":{"binary_data_size":` + strconv.Itoa(4*n) + `}}]}`
	for _, c := range []struct{ name, path, body, head string }{
		{"empty elements", "/v2/models/fake/infer", head + string(make([]byte, 4*n)), strconv.Itoa(len(head))},
		{"empty strings", "/v2/models/fake/infer", `{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["` + strings.Repeat(`","`, n) + `"]}]}`, ""},
		{"items of no rows", "/v2/models/fake/infer", `{"inputs":[{"name":"array","datatype":"FP32","shape":[1048576,0,5],"data":[]}]}`, ""},
	} {
		r := httptest.NewRequest("POST", "http://localhost"+c.path, strings.NewReader(c.body))
		r.Header.Set("Content-Type", "application/json")
		if c.head != "" {
			r.Header.Set("Inference-Header-Content-Length", c.head)
		}
		w := httptest.NewRecorder()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s.api.Handler().ServeHTTP(w, r)
		runtime.ReadMemStats(&after)
		if w.Code < 400 || w.Code > 499 {
			t.Errorf("%s: %d %.200s", c.name, w.Code, w.Body)
		}
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(8*len(c.body)+1<<20); got > most {
			t.Errorf("%s: %d bytes allocated for a body of %d", c.name, got, len(c.body))
		}
	}
}
