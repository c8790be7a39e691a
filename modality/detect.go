package modality

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/mmserve/mmserve/modality/media"
)

// Detect says which registered medium an input is and its media type. Signatures decide; the
// declared media type and the extension are hints for formats that have none, and an input
// declared as one medium that bears the signature of another is a Mismatch error (plain text
// excepted: any bytes may be text). Header.Kind overrides detection.
func Detect(h Header) (name, mediaType string, err error) {
	if h.Kind != "" {
		_, ok := Lookup(h.Kind)
		if !ok {
			return "", "", media.Errorf(media.Unsupported, "modality: no modality %q", h.Kind)
		}
		return h.Kind, typeWithin(h, h.Kind), nil
	}
	declared, declaredType := byDeclaration(h)
	if len(h.Parts) > 0 {
		return detectParts(h, declared)
	}
	found, foundType := bySignature(h, declared)
	switch {
	case found == "" && declared == "":
		return "", "", media.Errorf(media.Unsupported, "modality: unknown format%s", named(h))
	case found == "":
		return declared, declaredType, nil
	case declared == "" || declared == found:
		return found, foundType, nil
	case declared == "text":
		return declared, declaredType, nil
	}
	return "", "", media.Errorf(media.Mismatch, "modality: %s declared%s, the bytes are %s (%s)", declared, named(h), found, foundType)
}

// named quotes what the caller said about the input.
func named(h Header) string {
	s := ""
	if h.Name != "" {
		s += " in " + filepath.Base(h.Name)
	}
	if h.MediaType != "" {
		s += " (" + h.MediaType + ")"
	}
	return s
}

// byDeclaration goes by the declared media type, then by the extension.
func byDeclaration(h Header) (name, mediaType string) {
	declared, _, _ := strings.Cut(strings.ToLower(h.MediaType), ";")
	declared = strings.TrimSpace(declared)
	ext := h.Ext()
	if declared != "" {
		for _, s := range opened() {
			if slices.Contains(s.info.MediaTypes, declared) {
				return s.name, declared
			}
		}
	}
	if ext != "" {
		for _, s := range opened() {
			if slices.Contains(s.info.Extensions, ext) {
				return s.name, ""
			}
		}
	}
	return "", ""
}

// bySignature finds the medium whose signature the head bears; failing that, the one whose
// Sniffer is surest, at least half. Several media may share a format (a GIF is a picture and
// a video): the declared one is preferred, then "image", then the first by name.
func bySignature(h Header, declared string) (name, mediaType string) {
	type match struct{ name, mediaType string }
	var matches []match
	for _, s := range opened() {
		for _, m := range s.info.Magic {
			if m.Match(h.Head) {
				matches = append(matches, match{s.name, m.MediaType})
				break
			}
		}
	}
	if len(matches) > 0 {
		for _, want := range []string{declared, "image"} {
			if i := slices.IndexFunc(matches, func(m match) bool { return m.name == want }); i >= 0 {
				return matches[i].name, matches[i].mediaType
			}
		}
		return matches[0].name, matches[0].mediaType
	}
	best := 0.0
	for _, s := range opened() {
		if s.sniffer == nil {
			continue
		}
		if t, sure := s.sniffer.Sniff(h); sure > best && sure >= 0.5 {
			name, mediaType, best = s.name, t, sure
		}
	}
	if declared != "" && best < 1 && name != declared {
		return "", "" // a guess does not contradict a declaration
	}
	return name, mediaType
}

// typeWithin is the media type of a header among those of one medium, "" when unknown.
func typeWithin(h Header, name string) string {
	s := standardOf(name)
	for _, m := range s.info.Magic {
		if m.Match(h.Head) {
			return m.MediaType
		}
	}
	if s.sniffer != nil {
		t, _ := s.sniffer.Sniff(h)
		return t
	}
	return ""
}

// detectParts: a composite is what was declared; pictures are the frames of a video; anything
// else is fused.
func detectParts(h Header, declared string) (string, string, error) {
	if declared != "" {
		return declared, "", nil
	}
	if s := standardOf("video").sniffer; s != nil {
		if t, sure := s.Sniff(h); sure > 0 { // pictures, and perhaps their sound track
			return "video", t, nil
		}
	}
	name := "video"
	for _, p := range h.Parts {
		if n, _, err := Detect(p); err != nil {
			return "", "", err
		} else if n != "image" {
			name = "fuse"
		}
	}
	if _, ok := Lookup(name); !ok {
		return "", "", media.Errorf(media.Unsupported, "modality: no modality takes an input of %d parts", len(h.Parts))
	}
	return name, "", nil
}
