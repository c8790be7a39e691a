package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// The Open Inference Protocol v2 (github.com/kserve/open-inference-protocol), with the binary
// tensor extension. A model takes "media" (BYTES, an encoded file an element), "text" (BYTES) or
// "array" (FP32, ready rows: items×M×C or M×C); element i of every tensor is a part of item i. It
// answers with the tensors that "outputs" name, of latents, pooled, byte_array, soft_tokens and attention.

// binarySize announces the JSON part of a body that binary tensors follow.
const binarySize = "Inference-Header-Content-Length"

type oipRequest struct {
	ID         string         `json:"id"`
	Parameters map[string]any `json:"parameters"`
	Inputs     []oipTensor    `json:"inputs"`
	Outputs    []oipOutput    `json:"outputs"`
}

type oipTensor struct {
	Name       string          `json:"name"`
	Shape      []int           `json:"shape"`
	Datatype   string          `json:"datatype"`
	Parameters map[string]any  `json:"parameters,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"`
	raw        []byte
}

type oipOutput struct {
	Name       string         `json:"name"`
	Parameters map[string]any `json:"parameters"`
}

func (s *Server) oipServer(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, map[string]any{"name": "mmserve", "version": s.Version, "extensions": []string{"binary_tensor_data"}})
}

func (s *Server) oipLive(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, map[string]bool{"live": true})
}

func (s *Server) oipReady(w http.ResponseWriter, _ *http.Request) error {
	if err := s.ready(); err != nil {
		return err
	}
	return writeJSON(w, map[string]bool{"ready": true})
}

// oipModel answers a model's metadata.
func (s *Server) oipModel(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("model")
	m, release, err := s.Store.Acquire(r.Context(), oipName(r))
	if err != nil {
		return err
	}
	defer release()
	info := m.Info()
	type meta struct {
		Name     string `json:"name"`
		Datatype string `json:"datatype"`
		Shape    []int  `json:"shape"`
	}
	outs := []meta{}
	for _, o := range info.Outputs {
		switch o {
		case pipeline.OutputLatents:
			outs = append(outs, meta{o, "FP32", []int{-1, info.Latents, info.LatentDim}})
		case pipeline.OutputPooled:
			outs = append(outs, meta{o, "FP32", []int{-1, -1}})
		case pipeline.OutputSoftTokens:
			outs = append(outs, meta{o, "FP32", []int{-1, info.SoftTokens, info.SoftTokenDim}})
		}
	}
	return writeJSON(w, map[string]any{
		"name": name, "versions": []string{info.Digest}, "platform": "mmserve_" + info.Architecture,
		"inputs":  []meta{{"media", "BYTES", []int{-1}}, {"text", "BYTES", []int{-1}}, {"array", "FP32", []int{-1, -1, -1}}},
		"outputs": outs,
	})
}

func (s *Server) oipModelReady(w http.ResponseWriter, r *http.Request) error {
	name, digest, _ := strings.Cut(oipName(r), "@")
	for _, st := range s.Store.Status() {
		switch {
		case st.Name != name:
			continue
		case st.Loaded == nil:
			return problem(codeDraining, "model "+quote(name)+" is "+st.State)
		case !pipeline.SameDigest(st.Loaded.Digest, digest):
			return problem(codeNotFound, "model "+quote(name)+" is not loaded with the digest "+quote(digest))
		}
		return writeJSON(w, map[string]any{"name": name, "ready": true})
	}
	return problem(codeNotFound, "no model "+quote(name))
}

// oipName is the model a path names; a version is a digest.
func oipName(r *http.Request) string {
	if v := r.PathValue("version"); v != "" {
		return r.PathValue("model") + "@" + v
	}
	return r.PathValue("model")
}

// oipInfer answers an inference.
func (s *Server) oipInfer(w http.ResponseWriter, r *http.Request) error {
	req, err := readOIP(r)
	if err != nil {
		return err
	}
	items, err := s.oipItems(req)
	if err != nil {
		return err
	}
	m, release, err := s.Store.Acquire(r.Context(), oipName(r))
	if err != nil {
		return err
	}
	defer release()
	identify(w, m)
	asked := req.Outputs
	if len(asked) == 0 {
		asked = []oipOutput{{Name: pipeline.OutputLatents}}
	}
	names := make([]string, len(asked))
	for i, o := range asked {
		names[i] = o.Name
		for _, p := range []string{"classification", "shared_memory_region"} {
			if v := o.Parameters[p]; v != nil && v != 0.0 {
				return fieldProblem("outputs."+o.Name+".parameters."+p, "names an extension that this server does not have")
			}
		}
	}
	if err := checkOutputs(names); err != nil {
		return err
	}
	ctx, cancel := r.Context(), func() {}
	if us, ok := req.Parameters["timeout"].(float64); ok && us > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(min(us, float64(s.deadline())/1e3))*time.Microsecond)
	}
	defer cancel()
	j := &job{req: &workRequest{Model: r.PathValue("model"), Output: names, Atomic: true}, items: items, model: m, plan: m.Plan, ctx: ctx}
	got := map[string][]tensor.Tensor{}
	err = s.each(j, func(ctx context.Context, it pipeline.Item, res *result) (err error) {
		res.encoding, err = m.Encode(ctx, it, pipeline.EncodeOptions{Outputs: names, Latent: -1})
		return err
	}, func(_ int, res *result) error {
		for name, t := range res.tensors() {
			got[name] = append(got[name], t)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return writeOIP(w, r, req, asked, got, m.Info())
}

// readOIP reads the JSON and the binary tensors after it.
func readOIP(r *http.Request) (*oipRequest, error) {
	body, err := readWhole(r.Body, r.ContentLength)
	if err != nil {
		return nil, err
	}
	head, rest := body, []byte(nil)
	if v := r.Header.Get(binarySize); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 || n > len(body) {
			return nil, problem(codeBadRequest, fmt.Sprintf("%s is %s of a body of %d bytes", binarySize, quote(v), len(body)))
		}
		head, rest = body[:n], body[n:]
	}
	if _, err := io.Copy(io.Discard, weighing(r.Context(), bytes.NewReader(head))); err != nil {
		return nil, err
	}
	var req oipRequest
	if err := json.Unmarshal(head, &req); err != nil {
		var kind *json.UnmarshalTypeError
		if asType(err, &kind) {
			return nil, wrongType(kind)
		}
		return nil, problem(codeBadRequest, "the JSON part cannot be read: "+err.Error())
	}
	for i := range req.Inputs {
		t := &req.Inputs[i]
		if t.Parameters["shared_memory_region"] != nil {
			return nil, fieldProblem("inputs."+t.Name+".parameters.shared_memory_region", "names an extension that this server does not have")
		}
		t.Data = flat(t.Data)
		size, ok := t.Parameters["binary_data_size"].(float64)
		if !ok {
			continue
		}
		if size < 0 || size != math.Trunc(size) || size > float64(len(rest)) {
			return nil, fieldProblem("inputs."+t.Name, fmt.Sprintf("claims %.0f bytes, %d are left", size, len(rest)))
		}
		t.raw, rest = rest[:int(size)], rest[int(size):]
	}
	if len(rest) > 0 {
		return nil, problem(codeBadRequest, fmt.Sprintf("%d bytes after the last tensor", len(rest)))
	}
	return &req, nil
}

// oipItems makes an item of each element of the first input, further inputs adding parts.
func (s *Server) oipItems(req *oipRequest) ([]pipeline.Item, error) {
	var items []pipeline.Item
	for _, t := range req.Inputs {
		parts, err := s.oipParts(&t)
		if err != nil {
			return nil, err
		}
		if items == nil {
			items = make([]pipeline.Item, len(parts))
		}
		if len(parts) != len(items) {
			return nil, fieldProblem("inputs."+t.Name, fmt.Sprintf("has %d elements, the first input has %d", len(parts), len(items)))
		}
		for i, p := range parts {
			items[i].Parts = append(items[i].Parts, p)
		}
	}
	if len(items) == 0 {
		return nil, fieldProblem("inputs", "is empty")
	}
	return items, nil
}

// oipParts reads the elements of a tensor. Its shape is judged first: a few bytes of request could
// name very many.
func (s *Server) oipParts(t *oipTensor) ([]pipeline.Part, error) {
	field := "inputs." + t.Name
	want, err := t.elements()
	if err != nil {
		return nil, fieldProblem(field, err.Error())
	}
	switch t.Datatype {
	case "BYTES":
		if want > s.maxItems() {
			return nil, s.tooManyItems(want)
		}
		elements, err := t.bytes(want)
		if err != nil {
			return nil, fieldProblem(field, err.Error())
		}
		parts := make([]pipeline.Part, len(elements))
		for i, b := range elements {
			parts[i].Input = media.Bytes("", b)
			if t.Name == "text" {
				parts[i].Modality = "text"
			}
		}
		return parts, nil
	case "FP32":
		if len(t.Shape) == 3 && t.Shape[0] > s.maxItems() {
			return nil, s.tooManyItems(t.Shape[0])
		}
		return t.arrays(field, want)
	}
	return nil, fieldProblem(field+".datatype", "wants BYTES or FP32, not "+quote(t.Datatype))
}

// bytes reads BYTES elements, as many as the shape asks for: length-prefixed in binary, strings in
// JSON (base64 when a parameter "content_type" says "base64").
func (t *oipTensor) bytes(want int) ([][]byte, error) {
	out := make([][]byte, 0, want)
	if t.raw == nil {
		if n := listed(t.Data); n != want {
			return nil, t.miscounted(want, n)
		}
		var list []string
		if err := json.Unmarshal(t.Data, &list); err != nil {
			return nil, fmt.Errorf("data is no list of strings")
		}
		for _, s := range list {
			b := []byte(s)
			if t.Parameters["content_type"] == "base64" {
				var err error
				if b, err = base64.StdEncoding.DecodeString(s); err != nil {
					return nil, fmt.Errorf("data is not base64")
				}
			}
			out = append(out, b)
		}
		return out, nil
	}
	for b := t.raw; len(b) > 0; {
		if len(b) < 4 {
			return nil, fmt.Errorf("ends within a length")
		}
		n := int64(binary.LittleEndian.Uint32(b))
		if n > int64(len(b)-4) {
			return nil, fmt.Errorf("an element claims %d bytes, %d are left", n, len(b)-4)
		}
		if len(out) == want {
			return nil, t.miscounted(want, want+1)
		}
		out = append(out, b[4:4+n])
		b = b[4+n:]
	}
	if len(out) != want {
		return nil, t.miscounted(want, len(out))
	}
	return out, nil
}

// flat is a JSON list without the lists in it: the protocol lets data be nested as the shape is.
func flat(list []byte) []byte {
	if len(list) == 0 || list[0] != '[' || !bytes.HasPrefix(bytes.TrimLeft(list[1:], " \t\r\n"), []byte("[")) {
		return list
	}
	out, quoted := []byte("["), false
	for i := 0; i < len(list); i++ {
		c := list[i]
		if !quoted && (c == '[' || c == ']') {
			continue
		}
		if c == '\\' && i+1 < len(list) {
			out = append(out, c)
			i++
			c = list[i]
		} else if c == '"' {
			quoted = !quoted
		}
		out = append(out, c)
	}
	return append(out, ']')
}

// listed is the number of elements of a JSON list of strings or numbers.
func listed(list []byte) int {
	if len(list) < 2 || len(bytes.TrimSpace(list[1:len(list)-1])) == 0 {
		return 0
	}
	n, quoted := 1, false
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			n++
		}
	}
	return n
}

// elements is the number of elements that the shape asks for.
func (t *oipTensor) elements() (int, error) {
	n := 1
	for _, d := range t.Shape {
		if d < 0 || d > 1<<31 || n > 1<<31 {
			return 0, fmt.Errorf("shape %v is impossible", t.Shape)
		}
		n *= d
	}
	return n, nil
}

func (t *oipTensor) miscounted(want, n int) error {
	return fmt.Errorf("shape %v asks for %d elements, there are %d", t.Shape, want, n)
}

// arrays reads ready rows: each item becomes an .npy input.
func (t *oipTensor) arrays(field string, want int) ([]pipeline.Part, error) {
	n := len(t.raw) / 4
	if t.raw == nil {
		n = listed(t.Data)
	}
	if n != want {
		return nil, fieldProblem(field, t.miscounted(want, n).Error())
	}
	values := make([]float32, 0, want)
	if t.raw != nil {
		if len(t.raw)%4 != 0 {
			return nil, fieldProblem(field, "holds a part of a number")
		}
		values = values[:want]
		for i := range values {
			values[i] = math.Float32frombits(binary.LittleEndian.Uint32(t.raw[4*i:]))
		}
	} else if err := json.Unmarshal(t.Data, &values); err != nil {
		return nil, fieldProblem(field+".data", "is no flat list of numbers")
	}
	if len(values) != want {
		return nil, fieldProblem(field, t.miscounted(want, len(values)).Error())
	}
	shape := t.Shape
	if len(shape) == 2 {
		shape = []int{1, shape[0], shape[1]}
	}
	if len(shape) != 3 || shape[0] == 0 {
		return nil, fieldProblem(field+".shape", "wants items×M×C or M×C")
	}
	parts := make([]pipeline.Part, shape[0])
	all := tensor.Of(values, shape...)
	for i := range parts {
		var b bytes.Buffer
		if err := weights.WriteNPY(&b, all.At(i), weights.F32); err != nil {
			return nil, err
		}
		parts[i] = pipeline.Part{Input: media.Bytes("array.npy", b.Bytes()), Modality: "array"}
	}
	return parts, nil
}

// writeOIP answers with the asked tensors, binary where asked for.
func writeOIP(w http.ResponseWriter, r *http.Request, req *oipRequest, asked []oipOutput, got map[string][]tensor.Tensor, info pipeline.Info) error {
	all, _ := req.Parameters["binary_data_output"].(bool)
	resp := map[string]any{"model_name": r.PathValue("model"), "model_version": info.Digest}
	if req.ID != "" {
		resp["id"] = req.ID
	}
	var outs []oipTensor
	var tail bytes.Buffer
	for _, o := range asked {
		list := got[o.Name]
		if len(list) == 0 {
			return fieldProblem("outputs", "the model gives no "+quote(o.Name))
		}
		out := oipTensor{Name: o.Name, Datatype: "FP32", Shape: append([]int{len(list)}, list[0].Shape...)}
		var flat []float32
		for _, t := range list {
			if len(t.Data) != len(list[0].Data) {
				return fieldProblem("outputs", quote(o.Name)+" differs in size between items; ask one item at a time")
			}
			flat = append(flat, t.Data...)
			if err := finite(t); err != nil {
				return err
			}
		}
		binaryOut, said := o.Parameters["binary_data"].(bool)
		if binaryOut || all && !said {
			n := tail.Len()
			binary.Write(&tail, binary.LittleEndian, flat)
			out.Parameters = map[string]any{"binary_data_size": tail.Len() - n}
		} else {
			b, err := json.Marshal(flat)
			if err != nil {
				return err
			}
			out.Data = b
		}
		outs = append(outs, out)
	}
	resp["outputs"] = outs
	head, err := json.Marshal(resp)
	if err != nil {
		return err
	}
	if tail.Len() == 0 {
		w.Header().Set("Content-Type", "application/json")
		_, err = w.Write(head)
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set(binarySize, strconv.Itoa(len(head)))
	if _, err = w.Write(head); err != nil {
		return err
	}
	_, err = tail.WriteTo(w)
	return err
}
