package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
)

// workRequest is the body of the native routes that run a model: encode, predict, plan.
type workRequest struct {
	Model      string          `json:"model"`
	Inputs     []wireItem      `json:"inputs"`
	Output     stringList      `json:"output"`      // encode: what to return
	Top        int             `json:"top"`         // predict: classes a list holds
	Caption    bool            `json:"caption"`     // predict: also say it in words
	Latent     *int            `json:"latent"`      // attention of this latent; absent or -1: the mean
	DType      string          `json:"dtype"`       // f32, f16 or bf16 of returned tensors
	Encoding   string          `json:"encoding"`    // base64 or float, in JSON
	Format     string          `json:"format"`      // as Accept; this wins
	Normalize  bool            `json:"normalize"`   // pooled vectors to unit length
	Target     *wireTarget     `json:"target"`      // the language model the latents are for
	DeadlineMS int64           `json:"deadline_ms"` // the whole request's
	Atomic     bool            `json:"atomic"`      // one failed item fails the request
	User       json.RawMessage `json:"user"`        // taken and left alone

	data [][]byte // of the tensors of the answer (see writeTensors)
}

// wireTarget names the language model that soft tokens are meant for.
type wireTarget struct {
	LLM    string `json:"llm"`
	Format string `json:"format"`
	Hidden int    `json:"hidden_size"`
	// Sizes are the pictures' widths and heights, which a MiniCPM-V behind vLLM wants too.
	Sizes [][2]int `json:"image_sizes"`
	// Text is how transformers' placeholders are written; empty: as the model's family does.
	Text string `json:"placeholders"`
}

// wireItem is one item of a batch.
type wireItem struct {
	ID      string     `json:"id"`
	Content []wirePart `json:"content"`
}

// wirePart is one content part. Type is a modality's name ("image", "audio", "point_cloud",
// "text", "video", a plug-in's), or an alias of other APIs: "image_url", "audio_url",
// "video_url", "input_audio". Text, data and the URLs exclude each other.
type wirePart struct {
	Type      string          `json:"type"`
	Text      *string         `json:"text"`
	Data      json.RawMessage `json:"data"` // a string of base64, as it stands: it may be long
	URL       *wireURL        `json:"url"`  // data:, or https where the server fetches
	MediaType string          `json:"media_type"`
	Name      string          `json:"name"`
	Role      string          `json:"role"`
	Options   json.RawMessage `json:"options"`
	ImageURL  *wireURL        `json:"image_url"`
	AudioURL  *wireURL        `json:"audio_url"`
	VideoURL  *wireURL        `json:"video_url"`
	Audio     *wireAudio      `json:"input_audio"`

	lifted []byte // what Data or Audio hold, when it was taken out of the text (see lift)
}

// wireURL is {"url": "data:…"}, or the bare string.
type wireURL struct {
	URL    string `json:"url"`
	Detail string `json:"detail"`
}

// UnmarshalJSON takes an object or a string.
func (u *wireURL) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &u.URL)
	}
	type plain wireURL
	return json.Unmarshal(b, (*plain)(u))
}

type wireAudio struct {
	Data   json.RawMessage `json:"data"`
	Format string          `json:"format"`
}

// stringList is a list of strings, or one string.
type stringList []string

// UnmarshalJSON takes a list or a string.
func (l *stringList) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		*l = make(stringList, 1)
		return json.Unmarshal(b, &(*l)[0])
	}
	return json.Unmarshal(b, (*[]string)(l))
}

// modalityNames maps spellings of clients to modalities.
var modalityNames = map[string]string{
	"point_cloud": "pointcloud", "points": "pointcloud", "input_text": "text", "input_image": "image",
}

// decodeJSON reads a JSON body strictly: unknown fields and anything after it are refused.
func decodeJSON(ctx context.Context, r io.Reader, v any) error {
	d := json.NewDecoder(weighing(ctx, r))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		var p *Problem
		var kind *json.UnmarshalTypeError
		if ok := asType(err, &p); ok {
			return p
		}
		if asType(err, &kind) {
			return wrongType(kind)
		}
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			if bare, err := strconv.Unquote(name); err == nil {
				name = bare
			}
			return fieldProblem(name, "is not a field of this request")
		}
		if strings.HasPrefix(err.Error(), "json:") {
			return problem(codeBadRequest, strings.TrimPrefix(err.Error(), "json: "))
		}
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return problem(codeBadRequest, "more than one JSON value in the body")
	}
	return nil
}

// wrongType says which field holds what it should not, in JSON's words and not in Go's.
func wrongType(e *json.UnmarshalTypeError) *Problem {
	want := "an object"
	switch e.Type.Kind() {
	case reflect.String:
		want = "a string"
	case reflect.Bool:
		want = "true or false"
	case reflect.Slice, reflect.Array:
		want = "a list"
	case reflect.Float32, reflect.Float64:
		want = "a number"
	case reflect.Int, reflect.Int64:
		want = "a whole number"
	case reflect.Uint64:
		want = "a whole number of 0 or more"
	}
	if e.Field == "" {
		return problem(codeBadRequest, "the body is a JSON "+e.Value+"; want "+want)
	}
	return fieldProblem(e.Field, "holds a JSON "+e.Value+"; want "+want)
}

// parseWork reads a request of the native routes from any of its three forms: JSON, multipart
// (a part "request" with the JSON, then one part an item), or a raw body with the options in
// the query.
func (s *Server) parseWork(r *http.Request) (*workRequest, []pipeline.Item, error) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if r.Header.Get("Content-Type") == "" {
		kind, err = "application/octet-stream", nil
	}
	if err != nil {
		return nil, nil, problem(codeMediaType, "the Content-Type cannot be read")
	}
	switch kind {
	case "application/json":
		req, err := readWork(r)
		if err != nil {
			return nil, nil, err
		}
		items, err := s.items(req.Inputs)
		return req, items, err
	case "multipart/form-data", "multipart/mixed":
		return s.parseMultipart(r, params["boundary"])
	case "application/x-www-form-urlencoded": // what curl -d sends unasked
		return nil, nil, problem(codeMediaType, "send media with its own Content-Type (curl: --data-binary @file -H 'Content-Type: image/jpeg'), or JSON")
	}
	return s.parseRaw(r, kind)
}

// parseRaw makes a request of a body that is one medium.
func (s *Server) parseRaw(r *http.Request, kind string) (*workRequest, []pipeline.Item, error) {
	req, err := queryRequest(r)
	if err != nil {
		return nil, nil, err
	}
	body, err := readWhole(r.Body, r.ContentLength)
	if err != nil {
		return nil, nil, err
	}
	q := r.URL.Query()
	part := pipeline.Part{Input: media.Bytes(q.Get("name"), body), Modality: q.Get("modality")}
	if kind != "application/octet-stream" {
		part.Input.MediaType = kind
	}
	if o := q.Get("options"); o != "" && !json.Valid([]byte(o)) {
		return nil, nil, fieldProblem("options", "is no JSON")
	} else if o != "" {
		part.Options = json.RawMessage(o)
	}
	return req, []pipeline.Item{{ID: q.Get("id"), Parts: []pipeline.Part{part}}}, nil
}

// queryRequest reads the options of a request from its query, as strictly as from JSON. More names
// parameters that the route reads itself.
func queryRequest(r *http.Request, more ...string) (*workRequest, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, problem(codeBadRequest, "the query cannot be read")
	}
	req := &workRequest{}
	for name, values := range q {
		v := values[0]
		if v == "" {
			continue
		}
		want := ""
		switch name {
		case "model":
			req.Model = v
		case "dtype":
			req.DType = v
		case "encoding":
			req.Encoding = v
		case "format":
			req.Format = v
		case "output":
			req.Output = strings.Split(strings.Join(values, ","), ",")
		case "top":
			req.Top, err = strconv.Atoi(v)
			want = "a whole number"
		case "latent":
			req.Latent = new(int)
			*req.Latent, err = strconv.Atoi(v)
			want = "a whole number"
		case "deadline_ms":
			req.DeadlineMS, err = strconv.ParseInt(v, 10, 64)
			want = "a whole number"
		case "normalize":
			req.Normalize, err = strconv.ParseBool(v)
			want = "true or false"
		case "caption":
			req.Caption, err = strconv.ParseBool(v)
			want = "true or false"
		case "atomic":
			req.Atomic, err = strconv.ParseBool(v)
			want = "true or false"
		case "id", "name", "modality", "options": // of the medium; see parseRaw
		default:
			if !slices.Contains(more, name) {
				return nil, fieldProblem(name, "is not a parameter of this request")
			}
		}
		if err != nil {
			return nil, fieldProblem(name, "is "+quote(v)+"; want "+want)
		}
	}
	return req, nil
}

// parseMultipart reads one item a part; a part named "request" holds the options as JSON.
func (s *Server) parseMultipart(r *http.Request, boundary string) (*workRequest, []pipeline.Item, error) {
	req, err := queryRequest(r)
	if err != nil {
		return nil, nil, err
	}
	var items []pipeline.Item
	err = eachPart(r, boundary, func(p *multipart.Part) error {
		if p.FormName() == "request" {
			return decodeJSON(r.Context(), p, req)
		}
		if len(items) >= s.maxItems() {
			return s.tooManyItems(len(items) + 1)
		}
		data, err := io.ReadAll(p)
		if err != nil {
			return err
		}
		in := media.Bytes(p.FileName(), data)
		if ct := p.Header.Get("Content-Type"); ct != "application/octet-stream" {
			in.MediaType = ct
		}
		items = append(items, pipeline.Item{ID: p.FormName(), Parts: []pipeline.Part{{Input: in}}})
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if n := len(items) + len(req.Inputs); n > s.maxItems() {
		return nil, nil, s.tooManyItems(n)
	}
	more, err := s.items(req.Inputs)
	if err != nil {
		return nil, nil, err
	}
	return req, append(items, more...), nil
}

// eachPart hands on the parts of a multipart body, and reads it to its end.
func eachPart(r *http.Request, boundary string, f func(*multipart.Part) error) error {
	if boundary == "" {
		return problem(codeBadRequest, "multipart without a boundary")
	}
	for mr := multipart.NewReader(r.Body, boundary); ; {
		p, err := mr.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			if asType(err, new(*Problem)) || asType(err, new(*http.MaxBytesError)) || asType(err, new(*Saturated)) {
				return err
			}
			return problem(codeBadRequest, "the multipart body is malformed")
		}
		if err := f(p); err != nil {
			return err
		}
	}
	_, err := io.Copy(io.Discard, r.Body) // what follows the last boundary
	return err
}

// items turns wire items into pipeline items. One that cannot be read fails later, alone.
func (s *Server) items(in []wireItem) ([]pipeline.Item, error) {
	if len(in) > s.maxItems() {
		return nil, s.tooManyItems(len(in))
	}
	items := make([]pipeline.Item, len(in))
	for i, w := range in {
		items[i].ID = w.ID
		if len(w.Content) == 0 {
			err := fieldProblem(fmt.Sprintf("inputs[%d].content", i), "is empty")
			items[i].Parts = []pipeline.Part{{Input: missing(err)}}
		}
		for j, c := range w.Content {
			part, err := s.part(c, fmt.Sprintf("inputs[%d].content[%d]", i, j))
			if err != nil {
				part.Input = missing(err)
			}
			items[i].Parts = append(items[i].Parts, part)
		}
	}
	return items, nil
}

// fieldProblem is a bad request that names the field at fault.
func fieldProblem(field, what string) *Problem {
	p := problem(codeBadRequest, field+" "+what)
	p.Field = field
	return p
}

// part turns a content part into a pipeline part; field names it in errors. What it names by
// URL is fetched later.
func (s *Server) part(c wirePart, field string) (pipeline.Part, error) {
	p := pipeline.Part{Options: c.Options, Role: c.Role, Modality: c.Type}
	if m, ok := modalityNames[c.Type]; ok {
		p.Modality = m
	}
	p.Input.MediaType, p.Input.Name = c.MediaType, c.Name
	data := len(c.Data) > 0 && string(c.Data) != `""` && string(c.Data) != "null"
	given := 0
	for _, is := range []bool{c.Text != nil, c.ImageURL != nil, c.AudioURL != nil, c.VideoURL != nil, c.URL != nil, c.Audio != nil, data} {
		if is {
			given++
		}
	}
	var err error
	switch {
	case c.Type == "":
		return p, fieldProblem(field+".type", "is missing")
	case given > 1:
		return p, fieldProblem(field, "holds more than one of text, data and a url")
	case c.Text != nil:
		p.Modality = "text"
		p.Input = media.Bytes(c.Name, []byte(*c.Text))
	case c.ImageURL != nil:
		p.Modality = "image"
		err = s.byURL(&p.Input, c.ImageURL.URL, field+".image_url")
	case c.AudioURL != nil:
		p.Modality = "audio"
		err = s.byURL(&p.Input, c.AudioURL.URL, field+".audio_url")
	case c.VideoURL != nil:
		p.Modality = "video"
		err = s.byURL(&p.Input, c.VideoURL.URL, field+".video_url")
	case c.URL != nil:
		err = s.byURL(&p.Input, c.URL.URL, field+".url")
	case c.Audio != nil:
		p.Modality = "audio"
		err = c.inline(&p.Input, c.Audio.Data, field+".input_audio.data")
	case data:
		err = c.inline(&p.Input, c.Data, field+".data")
	default:
		err = fieldProblem(field, "holds neither text nor data nor a url")
	}
	return p, err
}

// setBytes gives an input its bytes; its name and declared type stay.
func setBytes(in *media.Input, b []byte) {
	kind := in.MediaType
	*in = media.Bytes(in.Name, b)
	in.MediaType = kind
}

// byURL sets an input from a data: URL, or marks it as to be fetched.
func (s *Server) byURL(in *media.Input, address, field string) error {
	if !strings.HasPrefix(address, "data:") {
		if s.Remote == nil {
			return fieldProblem(field, "is no data: URL; this server fetches no remote media")
		}
		in.At, in.Size = &absent{url: address, field: field}, -1
		return nil
	}
	b, kind, err := dataURL(address)
	if err != nil {
		return fieldProblem(field, err.Error())
	}
	if kind != "" {
		in.MediaType = kind
	}
	setBytes(in, b)
	return nil
}

// dataURL reads a data: URL. No other scheme is fetched.
func dataURL(u string) (data []byte, mediaType string, err error) {
	rest, ok := strings.CutPrefix(u, "data:")
	if !ok {
		return nil, "", fmt.Errorf("is no data: URL")
	}
	head, body, ok := strings.Cut(rest, ",")
	if !ok {
		return nil, "", fmt.Errorf("is a data: URL without a comma")
	}
	mediaType, isBase64 := strings.CutSuffix(head, ";base64")
	if !isBase64 {
		return nil, "", fmt.Errorf("is a data: URL that is not base64")
	}
	data, err = unbase64([]byte(body))
	return data, mediaType, err
}

// readWhole reads what is announced as size bytes, or as -1, without growing step by step. No
// more than a little is set aside before it arrives.
func readWhole(r io.Reader, size int64) ([]byte, error) {
	const most = 256 << 10
	b := bytes.NewBuffer(make([]byte, 0, min(max(size, 0), most)+bytes.MinRead))
	_, err := b.ReadFrom(r)
	return b.Bytes(), err
}
