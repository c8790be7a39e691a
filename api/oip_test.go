package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/api"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// oipIn is an input as Triton's Python client writes it: values behind the JSON, or within it.
type oipIn struct {
	name, datatype, shape string
	binary                bool
	texts                 []string  // of BYTES
	values                []float32 // of FP32
}

// oipBody is a request in the spelling and the order of tritonclient.http 2.73, and the length of its
// JSON where binary tensors follow, else "".
func oipBody(t *testing.T, id string, inputs []oipIn, outputs, parameters string) (body []byte, head string) {
	t.Helper()
	var described []string
	var tail []byte
	for _, in := range inputs {
		var raw []byte
		for _, s := range in.texts {
			raw = append(binary.LittleEndian.AppendUint32(raw, uint32(len(s))), s...)
		}
		for _, v := range in.values {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
		}
		d := fmt.Sprintf(`{"name":%q,"shape":%s,"datatype":%q,`, in.name, in.shape, in.datatype)
		switch {
		case in.binary:
			d += fmt.Sprintf(`"parameters":{"binary_data_size":%d}}`, len(raw))
			tail = append(tail, raw...)
		case in.texts != nil:
			d += `"data":` + words(t, in.texts) + `}`
		default:
			d += `"data":` + words(t, in.values) + `}`
		}
		described = append(described, d)
	}
	text := `{`
	if id != "" {
		text += `"id":"` + id + `",`
	}
	text += `"inputs":[` + strings.Join(described, ",") + `]`
	if outputs != "" {
		text += `,"outputs":[` + outputs + `]`
	}
	if parameters != "" {
		text += `,"parameters":{` + parameters + `}`
	}
	text += `}`
	if tail != nil {
		head = fmt.Sprint(len(text))
	}
	return append([]byte(text), tail...), head
}

// oipTensors reads an answer as that client does: binary tensors one after the other, in the order of
// the outputs.
func oipTensors(t *testing.T, a answer) (map[string]any, map[string]tensor.Tensor) {
	t.Helper()
	text, tail := a.body, []byte(nil)
	if n := a.header.Get("Inference-Header-Content-Length"); n != "" {
		var at int
		fmt.Sscan(n, &at)
		text, tail = a.body[:at], a.body[at:]
	}
	var js map[string]any
	if err := json.Unmarshal(text, &js); err != nil {
		t.Fatalf("%v in %.200q", err, text)
	}
	got := map[string]tensor.Tensor{}
	for _, o := range js["outputs"].([]any) {
		o := o.(map[string]any)
		var v tensor.Tensor
		for _, d := range o["shape"].([]any) {
			v.Shape = append(v.Shape, int(d.(float64)))
		}
		if p, ok := o["parameters"].(map[string]any); ok {
			n := int(p["binary_data_size"].(float64))
			v = weights.Raw{DType: weights.F32, Shape: v.Shape, Data: tail[:n]}.Tensor()
			tail = tail[n:]
		} else {
			for _, x := range o["data"].([]any) {
				v.Data = append(v.Data, float32(x.(float64)))
			}
		}
		if o["datatype"] != "FP32" || tensor.Size(v.Shape) != len(v.Data) {
			t.Errorf("%v: %s, %d values in %v", o["name"], o["datatype"], len(v.Data), v.Shape)
		}
		got[o["name"].(string)] = v
	}
	if len(tail) > 0 {
		t.Errorf("%d bytes that no output claims", len(tail))
	}
	return js, got
}

// The binary tensors of the Open Inference Protocol, in the bytes that Triton's and KServe's Python
// clients send: every mix of binary and JSON gives the numbers that /v1/encode gives.
func TestOpenInferenceBinary(t *testing.T) {
	s := newSite(t, &api.Server{})
	picture, sound := readMedia(t, "image/go-video-001.rgb.jpeg"), readMedia(t, "audio/fsdd-7_george_0.wav")
	part := func(kind string, b []byte) string {
		return fmt.Sprintf(`{"type":%q,"data":%q}`, kind, base64.StdEncoding.EncodeToString(b))
	}
	text := func(s string) string { return `{"type":"text","text":` + words(t, s) + `}` }
	names := []string{"latents", "pooled", "soft_tokens"}
	encoded := func(model string, items ...string) map[string]tensor.Tensor {
		t.Helper()
		var list []string
		for _, it := range items {
			list = append(list, `{"content":[`+it+`]}`)
		}
		a := s.want(s.post("/v1/encode", `{"model":"`+model+`","output":["latents","pooled","soft_tokens"],"inputs":[`+strings.Join(list, ",")+`]}`), 200)
		all := map[string]tensor.Tensor{}
		for _, d := range a.json(t)["data"].([]any) {
			for _, name := range names {
				if d, ok := d.(map[string]any)[name].(map[string]any); ok {
					raw, _ := base64.StdEncoding.DecodeString(d["data"].(string))
					v := all[name]
					v.Data = append(v.Data, weights.Raw{DType: weights.F32, Shape: []int{len(raw) / 4}, Data: raw}.Tensor().Data...)
					all[name] = v
				}
			}
		}
		return all
	}
	var config struct {
		ModelDim int `json:"d_model"`
	}
	b, err := os.ReadFile("../testdata/reference/perceiver/bare_model/config.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &config); err != nil {
		t.Fatal(err)
	}
	c := config.ModelDim
	rows := small(2, 3, c)
	array := func(i int) string {
		return part("array", npy(t, weights.F32, rows.At(i)))
	}
	media := []string{string(picture), string(sound)}
	for _, test := range []struct {
		name   string
		model  string
		inputs [][]oipIn // each gives the same
		items  []string
	}{
		{"several media", "default", [][]oipIn{
			{{name: "media", datatype: "BYTES", shape: "[2]", binary: true, texts: media}},
			{{name: "media", datatype: "BYTES", shape: "[2,1]", binary: true, texts: media}},
		}, []string{part("image", picture), part("audio", sound)}},
		{"text", "default", [][]oipIn{
			{{name: "text", datatype: "BYTES", shape: "[2]", binary: true, texts: []string{"hello", "wörlds"}}},
			{{name: "text", datatype: "BYTES", shape: "[2]", texts: []string{"hello", "wörlds"}}},
		}, []string{text("hello"), text("wörlds")}},
		{"two inputs", "default", [][]oipIn{
			{{name: "media", datatype: "BYTES", shape: "[1]", binary: true, texts: media[:1]}, {name: "text", datatype: "BYTES", shape: "[1]", binary: true, texts: []string{"a stage"}}},
			{{name: "media", datatype: "BYTES", shape: "[1]", binary: true, texts: media[:1]}, {name: "text", datatype: "BYTES", shape: "[1]", texts: []string{"a stage"}}},
		}, []string{part("image", picture) + "," + text("a stage")}},
		{"text first", "default", [][]oipIn{
			{{name: "text", datatype: "BYTES", shape: "[1]", texts: []string{"a stage"}}, {name: "media", datatype: "BYTES", shape: "[1]", binary: true, texts: media[:1]}},
			{{name: "text", datatype: "BYTES", shape: "[1]", binary: true, texts: []string{"a stage"}}, {name: "media", datatype: "BYTES", shape: "[1]", binary: true, texts: media[:1]}},
		}, []string{text("a stage") + "," + part("image", picture)}},
		{"rows", "bare", [][]oipIn{
			{{name: "array", datatype: "FP32", shape: words(t, rows.Shape), binary: true, values: rows.Data}},
			{{name: "array", datatype: "FP32", shape: words(t, rows.Shape), values: rows.Data}},
		}, []string{array(0), array(1)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := encoded(test.model, test.items...)
			var given []string
			for _, name := range names {
				if want[name].Data != nil {
					given = append(given, name)
				}
			}
			for i, inputs := range test.inputs {
				for mask := range 1 << len(given) { // which outputs are binary
					var outputs []string
					for k, name := range given {
						outputs = append(outputs, fmt.Sprintf(`{"name":%q,"parameters":{"binary_data":%t}}`, name, mask>>k&1 == 1))
					}
					body, head := oipBody(t, "r1", inputs, strings.Join(outputs, ","), `"priority":1,"timeout":5000000`)
					headers := []string{"Content-Type", "application/json"}
					if head != "" {
						headers = []string{"Inference-Header-Content-Length", head}
					}
					js, got := oipTensors(t, s.want(s.do("POST", "/v2/models/"+test.model+"/infer", body, headers...), 200))
					if js["id"] != "r1" || len(got) != len(given) {
						t.Errorf("id %v, %d outputs", js["id"], len(got))
					}
					for _, name := range given {
						if got[name].Dim(0) != len(test.items) || !slices.Equal(got[name].Data, want[name].Data) {
							t.Errorf("inputs %d, binary outputs %b: %s differs", i, mask, name)
						}
					}
				}
				// Without outputs the client asks for all in binary.
				body, head := oipBody(t, "", inputs, "", `"binary_data_output":true`)
				var headers []string
				if head != "" {
					headers = []string{"Inference-Header-Content-Length", head}
				}
				a := s.want(s.do("POST", "/v2/models/"+test.model+"/infer", body, headers...), 200)
				js, got := oipTensors(t, a)
				if _, has := js["id"]; has || a.header.Get("Inference-Header-Content-Length") == "" || !slices.Equal(got["latents"].Data, want["latents"].Data) {
					t.Errorf("inputs %d: latents by default: id %v, %v", i, js["id"], a.header)
				}
			}
		})
	}
}

// A request of tritonclient.http 2.73 as it was recorded: what oipBody writes is what it sent.
func TestOpenInferenceRecorded(t *testing.T) {
	const recorded = `{"id":"r1","inputs":[{"name":"text","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":20}},` +
		`{"name":"text2","shape":[2],"datatype":"BYTES","data":["a","b"]}],"outputs":[{"name":"latents","parameters":{"binary_data":true}},` +
		`{"name":"pooled","parameters":{"binary_data":false}},{"name":"soft_tokens","parameters":{"binary_data":true}}],` +
		`"parameters":{"priority":1,"timeout":5000000}}` + "\x05\x00\x00\x00hello\x07\x00\x00\x00w\xc3\xb6rlds"
	body, head := oipBody(t, "r1", []oipIn{
		{name: "text", datatype: "BYTES", shape: "[2]", binary: true, texts: []string{"hello", "wörlds"}},
		{name: "text2", datatype: "BYTES", shape: "[2]", texts: []string{"a", "b"}},
	}, `{"name":"latents","parameters":{"binary_data":true}},{"name":"pooled","parameters":{"binary_data":false}},{"name":"soft_tokens","parameters":{"binary_data":true}}`,
		`"priority":1,"timeout":5000000`)
	if !bytes.Equal(body, []byte(recorded)) || head != "392" {
		t.Fatalf("%q, %s", body, head)
	}
	s := newSite(t, &api.Server{})
	_, got := oipTensors(t, s.want(s.do("POST", "/v2/models/default/infer", body, "Inference-Header-Content-Length", head), 200))
	if len(got) != 3 || got["latents"].Dim(0) != 2 {
		t.Errorf("%v", got)
	}
	for name, bad := range map[string]struct{ body, head string }{
		"a length too short":  {recorded[:len(recorded)-1], head},
		"bytes left over":     {recorded + "x", head},
		"JSON cut":            {recorded, "391"},
		"an element too long": {strings.Replace(recorded, "\x05\x00\x00\x00", "\xff\xff\xff\xff", 1), head},
		"a part of a length":  {strings.Replace(recorded, ":20}", ":19}", 1)[:len(recorded)-1], head},
		"no tail":             {recorded[:392], head},
		"a size below zero":   {strings.Replace(recorded, ":20}", ":-2}", 1), head},
		"shared memory":       {`{"inputs":[{"name":"media","shape":[1],"datatype":"BYTES","parameters":{"shared_memory_region":"r","shared_memory_byte_size":100}}]}`, ""},
	} {
		headers := []string{"Content-Type", "application/json"}
		if bad.head != "" {
			headers = []string{"Inference-Header-Content-Length", bad.head}
		}
		if a := s.do("POST", "/v2/models/default/infer", []byte(bad.body), headers...); a.status != 400 || a.json(t)["error"] == nil {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		} else if name == "shared memory" && !strings.Contains(string(a.body), "shared_memory_region") {
			t.Errorf("%s: %s", name, a.body)
		}
	}
}
