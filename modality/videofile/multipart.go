package videofile

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"mime"
	"net/textproto"
	"strings"

	"github.com/mmserve/mmserve/modality/media"
)

// boundaryOf returns the boundary of a multipart body, from the declared type or else from a
// first line that begins with "--" and is followed by header lines; "" when it is none.
func boundaryOf(mediaType string, head []byte) string {
	if kind, params, err := mime.ParseMediaType(mediaType); err == nil && strings.HasPrefix(kind, "multipart/") && params["boundary"] != "" {
		return params["boundary"]
	}
	line, rest, ok := bytes.Cut(head, []byte("\r\n"))
	b, dashes := bytes.CutPrefix(line, []byte("--"))
	if !ok || !dashes || len(b) == 0 || len(b) > 70 || !bytes.HasPrefix(bytes.ToLower(rest), []byte("content-")) {
		return ""
	}
	return string(b)
}

// span is the bytes [from,to) of a file.
type span struct{ from, to int64 }

// openMultipart finds the parts of a body by their delimiters. Parts are frames in the order
// in which they come.
func openMultipart(f *file) (*Video, error) {
	boundary := boundaryOf(f.mediaType, f.head)
	spans, err := splitMultipart(f, boundary)
	if err != nil {
		return nil, err
	}
	v := &Video{Config: Config{MediaType: "multipart/mixed"}}
	var frames []span
	for _, s := range spans {
		name, body, err := readPart(f, s, 64)
		if err != nil {
			return nil, err
		}
		switch {
		case isAudio(name) && v.Config.Audio == "":
			_, sound, err := readPart(f, s, f.limits.Decoded)
			if err != nil {
				return nil, err
			}
			in := media.Bytes(name, sound)
			in.Limits = f.limits
			v.audio, v.Config.Audio = &in, name
		case len(body) == 0:
			return nil, media.Errorf(media.Empty, "video: multipart: part of no bytes")
		default:
			frames = append(frames, s)
		}
	}
	if len(frames) == 0 {
		return nil, media.Errorf(media.Empty, "video: multipart: no parts")
	}
	if err := media.Check("video: frames", f.limits.Frames, len(frames)); err != nil {
		return nil, err
	}
	v.Frames = len(frames)
	p := &pictures{limits: f.limits, load: func(ctx context.Context, i int) (media.Input, error) {
		name, body, err := readPart(&file{ctx: ctx, at: f.at, limits: f.limits}, frames[i], f.limits.Decoded)
		return media.Bytes(name, body), err
	}}
	return v, v.first(f.ctx, p)
}

// splitMultipart reads the body once and notes where its parts lie. A body without its last
// delimiter is truncated.
func splitMultipart(f *file, boundary string) ([]span, error) {
	if len(boundary) > 70 { // RFC 2046, section 5.1.1
		return nil, media.Errorf(media.Malformed, "video: multipart: boundary of %d bytes", len(boundary))
	}
	r := bufio.NewReaderSize(media.NewReader(f.ctx, io.NewSectionReader(f.at, 0, f.size), f.size), 64<<10)
	delimiter := []byte("--" + boundary)
	var spans []span
	open := false
	for at := int64(0); ; {
		line, err := r.ReadSlice('\n')
		if err != nil && err != bufio.ErrBufferFull && err != io.EOF {
			return nil, err
		}
		start := at
		at += int64(len(line))
		if bytes.HasPrefix(line, delimiter) && atLineStart(f, start) {
			if n := len(spans); open && n > 0 {
				spans[n-1].to = max(start-2, spans[n-1].from) // the line end belongs to the delimiter
			}
			if bytes.HasPrefix(line[len(delimiter):], []byte("--")) {
				return spans, nil
			}
			if err := media.Check("video: multipart: parts", f.limits.Parts, len(spans)+1); err != nil {
				return nil, err
			}
			spans, open = append(spans, span{from: at}), true
		}
		if err == io.EOF {
			return nil, media.Errorf(media.Truncated, "video: multipart: no closing delimiter")
		}
	}
}

// atLineStart reports whether offset at begins a line: long binary lines reach the reader in
// pieces, and a piece may begin with anything.
func atLineStart(f *file, at int64) bool {
	if at == 0 {
		return true
	}
	var b [1]byte
	_, err := f.at.ReadAt(b[:], at-1)
	return err == nil && b[0] == '\n'
}

// readPart reads a part's headers and up to most bytes of its body, base64 undone.
func readPart(f *file, s span, most int64) (name string, body []byte, err error) {
	r := bufio.NewReader(media.NewReader(f.ctx, io.NewSectionReader(f.at, s.from, s.to-s.from), s.to-s.from))
	header, err := textproto.NewReader(bufio.NewReader(io.LimitReader(io.NewSectionReader(f.at, s.from, s.to-s.from), 16<<10))).ReadMIMEHeader()
	if err != nil {
		return "", nil, media.Wrap(err, media.Malformed, "video: multipart: part header")
	}
	for { // the blank line ends the header
		line, err := r.ReadSlice('\n')
		if err != nil {
			return "", nil, media.Errorf(media.Malformed, "video: multipart: part without a body")
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			break
		}
	}
	_, params, _ := mime.ParseMediaType(header.Get("Content-Disposition"))
	if name = params["filename"]; name == "" {
		_, params, _ = mime.ParseMediaType(header.Get("Content-Type"))
		name = params["name"]
	}
	var src io.Reader = r
	switch enc := strings.ToLower(header.Get("Content-Transfer-Encoding")); enc {
	case "", "binary", "8bit", "7bit":
	case "base64":
		src = base64.NewDecoder(base64.StdEncoding, r)
	default:
		return "", nil, media.Errorf(media.Unsupported, "video: multipart: transfer encoding %q", clip(enc))
	}
	body, err = io.ReadAll(io.LimitReader(src, most))
	return name, body, media.Wrap(err, media.Malformed, "video: multipart: part")
}
