package flamingo

import (
	"fmt"
	"math"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
)

// Part is what one sequence adds to a pass.
type Part struct {
	Seq    *Sequence
	Tokens []int
	// Soft holds the rows (rows×Width) that replace, in order, the embeddings of the tokens
	// Config.Soft among Tokens. Empty for none.
	Soft tensor.Tensor
	// Visible states which pictures each token sees, tokens×pictures; nil derives it from the
	// media tokens.
	Visible [][]bool
}

// Forward computes the new tokens of every part and returns logits as scratch: of each part's
// last token, parts×(Vocab+Extra), or with all of every token in order. The sequences grow;
// after an error they are as before.
func (m *Model) Forward(a *tensor.Arena, parts []Part, all bool) (tensor.Tensor, error) {
	total := 0
	for i, p := range parts {
		if err := m.checkPart(p); err != nil {
			if len(parts) > 1 {
				err = fmt.Errorf("sequence %d: %w", i, err)
			}
			return tensor.Tensor{}, err
		}
		for _, q := range parts[:i] {
			if q.Seq == p.Seq {
				return tensor.Tensor{}, fmt.Errorf("flamingo: one sequence twice in a pass")
			}
		}
		total += len(p.Tokens)
	}
	rows := len(parts)
	if all {
		rows = total
	}
	logits := a.New(rows, m.Config.Vocab+m.Config.Extra)
	mark := a.Mark()
	defer a.Release(mark)
	x := a.New(total, m.Config.Width)
	m.embedTokens(a, x, parts)
	runs := m.runs(parts)
	p := m.place(a, parts, total)
	for i := range m.layers {
		l := &m.layers[i]
		if l.cross != nil {
			for j := range runs {
				runs[j].mem = &parts[j].Seq.memory[i]
			}
			l.cross.forward(a, x, runs)
		}
		m.layer(a, l, i, x, parts, p)
		emit(a, l.id, x)
	}
	for _, p := range parts {
		p.Seq.n += len(p.Tokens)
	}
	m.score(a, logits, x, parts, all)
	return logits, nil
}

func (m *Model) checkPart(p Part) error {
	c := m.Config
	if len(p.Tokens) == 0 {
		return fmt.Errorf("flamingo: no tokens")
	}
	if n := p.Seq.n + len(p.Tokens); c.Context > 0 && n > c.Context {
		return fmt.Errorf("flamingo: %d tokens: the context of this language model is %d", n, c.Context)
	}
	soft := 0
	for _, id := range p.Tokens {
		if id < 0 || id >= c.Vocab+c.Extra {
			return fmt.Errorf("flamingo: token id %d: the vocabulary has %d", id, c.Vocab+c.Extra)
		}
		if id == c.Soft && c.Soft >= 0 {
			soft++
		}
	}
	if p.Soft.Data != nil && (p.Soft.Cols() != c.Width || p.Soft.Rows() != soft) {
		return fmt.Errorf("flamingo: soft tokens: %d placeholders of width %d in the prompt, got %v", soft, c.Width, p.Soft.Shape)
	}
	if p.Visible != nil && len(p.Visible) != len(p.Tokens) {
		return fmt.Errorf("flamingo: image attention mask of %d tokens for %d", len(p.Visible), len(p.Tokens))
	}
	for _, row := range p.Visible {
		if len(row) > p.Seq.pictures {
			return fmt.Errorf("flamingo: image attention mask over %d pictures, the sequence has %d", len(row), p.Seq.pictures)
		}
	}
	return nil
}

// embedTokens writes the embedding of each token, its position added where positions are
// learned.
func (m *Model) embedTokens(a *tensor.Arena, x tensor.Tensor, parts []Part) {
	mark := a.Mark()
	defer a.Release(mark)
	out := x
	if m.projIn != nil {
		x = a.New(x.Rows(), m.Config.embedWidth())
	}
	m.lookUp(x, parts)
	if m.projIn != nil {
		m.projIn.Into(out, x, kernel.Epilogue{})
	}
	if m.positions.Data == nil {
		return
	}
	at := 0
	for _, p := range parts {
		for i := range p.Tokens {
			row := out.Row(at)
			kernel.Add(row, row, m.positions.Row(p.Seq.n+i+m.offset))
			at++
		}
	}
}

// lookUp writes the row of the embedding, or the soft token, of each token.
func (m *Model) lookUp(x tensor.Tensor, parts []Part) {
	at := 0
	for _, p := range parts {
		soft := 0
		for _, id := range p.Tokens {
			row := x.Row(at)
			switch {
			case p.Soft.Data != nil && id == m.Config.Soft:
				copy(row, p.Soft.Row(soft))
				soft++
			case id >= m.Config.Vocab:
				m.extra.Row(row, id-m.Config.Vocab)
			default:
				m.embed.Row(row, id)
			}
			at++
		}
	}
}

// Embed returns the embeddings of tokens, T×(width of the embedding): the text around soft
// tokens when a whole prompt must be embeddings.
func (m *Model) Embed(tokens []int) (tensor.Tensor, error) {
	for _, id := range tokens {
		if id < 0 || id >= m.Config.Vocab+m.Config.Extra {
			return tensor.Tensor{}, fmt.Errorf("flamingo: token id %d: the vocabulary has %d", id, m.Config.Vocab+m.Config.Extra)
		}
	}
	x := tensor.New(len(tokens), m.Config.embedWidth())
	for i, id := range tokens {
		if id >= m.Config.Vocab {
			m.extra.Row(x.Row(i), id-m.Config.Vocab)
		} else {
			m.embed.Row(x.Row(i), id)
		}
	}
	return x, nil
}

// runs readies what every token sees, once for all layers.
func (m *Model) runs(parts []Part) []run {
	if m.Config.Cross == nil {
		return nil
	}
	out, at := make([]run, len(parts)), 0
	for i, p := range parts {
		out[i] = run{
			from: at, to: at + len(p.Tokens), see: p.Seq.see(m.Config.Cross, p.Tokens, p.Visible),
			pictures: p.Seq.pictures, latents: p.Seq.latents,
		}
		at += len(p.Tokens)
	}
	return out
}

// placed is what depends on the positions of the rows alone: rotary angles, ALiBi biases.
type placed struct {
	cos, sin tensor.Tensor // rows×RotaryDim/2; empty without rotary
	alibi    [][]float32   // by part, Heads×keys; nil without
}

func (m *Model) place(a *tensor.Arena, parts []Part, total int) placed {
	var p placed
	if half := len(m.inverse); half > 0 {
		p.cos, p.sin = a.New(total, half), a.New(total, half)
		at := 0
		for _, part := range parts {
			to := at + len(part.Tokens)
			m.turns(p.cos.Slice(at, to), p.sin.Slice(at, to), part)
			at = to
		}
	}
	if m.slopes != nil {
		for _, part := range parts {
			keys := part.Seq.n + len(part.Tokens)
			bias := a.Floats(len(m.slopes) * keys)
			for h, slope := range m.slopes {
				for j := range keys {
					bias[h*keys+j] = slope * float32(j+1-keys)
				}
			}
			p.alibi = append(p.alibi, bias)
		}
	}
	return p
}

// layer runs decoder layer i over x in place.
func (m *Model) layer(a *tensor.Arena, l *layer, i int, x tensor.Tensor, parts []Part, p placed) {
	mark := a.Mark()
	defer a.Release(mark)
	h := a.New(x.Shape...)
	residual := kernel.Epilogue{Residual: x.Data, LDR: x.Cols()}
	if m.Config.PostNorm {
		l.out.Into(x, m.attend(a, l, i, x, parts, p), residual)
		l.norm1.apply(x.Data, x.Data, x.Rows())
		copy(h.Data, x.Data)
		l.ff.AddTo(a, x, h)
		l.norm2.apply(x.Data, x.Data, x.Rows())
		return
	}
	l.norm1.apply(h.Data, x.Data, x.Rows())
	o := m.attend(a, l, i, h, parts, p)
	if m.Config.Parallel {
		l.norm2.apply(h.Data, x.Data, x.Rows())
		y := a.New(x.Shape...)
		l.out.Into(y, o, residual)
		copy(x.Data, l.ff.ForwardAdd(a, h, y).Data)
		return
	}
	l.out.Into(x, o, residual)
	l.norm2.apply(h.Data, x.Data, x.Rows())
	l.ff.AddTo(a, x, h)
}

// attend appends the new keys and values to each sequence and attends causally over them.
func (m *Model) attend(a *tensor.Arena, l *layer, i int, h tensor.Tensor, parts []Part, p placed) tensor.Tensor {
	c := m.Config
	q, k, v := m.project(a, l, h, p)
	qw, kw := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	o := a.New(h.Rows(), qw)
	args := kernel.AttnArgs{
		Heads: c.Heads, KVHeads: c.KVHeads, QK: c.HeadDim, V: c.HeadDim, Scale: c.Scale, Causal: true,
		LDQ: qw, LDK: kw, LDV: kw, LDO: qw,
	}
	at := 0
	for j, part := range parts {
		s, n := part.Seq, len(part.Tokens)
		s.k[i] = append(s.k[i][:s.n*kw], k.Data[at*kw:(at+n)*kw]...)
		s.v[i] = append(s.v[i][:s.n*kw], v.Data[at*kw:(at+n)*kw]...)
		near := n // rows that see every key before them
		if c.Window > 0 {
			near = min(max(c.Window-s.n, 0), n)
		}
		args.L, args.S = near, s.n+near
		args.Q, args.Out = q.Data[at*qw:], o.Data[at*qw:]
		args.K, args.VV = s.k[i], s.v[i]
		if p.alibi != nil {
			args.KeyBias, args.KeyBiasStride = p.alibi[j], args.S
		}
		kernel.Attention(&args)
		for r := near; r < n; r++ { // the others see Window keys, their own the last
			from := (s.n + r + 1 - c.Window) * kw
			args.L, args.S = 1, c.Window
			args.Q, args.Out = q.Data[(at+r)*qw:], o.Data[(at+r)*qw:]
			args.K, args.VV = s.k[i][from:], s.v[i][from:]
			kernel.Attention(&args)
		}
		at += n
	}
	return o
}

// project returns queries, keys and values, positions applied.
func (m *Model) project(a *tensor.Arena, l *layer, h tensor.Tensor, p placed) (q, k, v tensor.Tensor) {
	c := m.Config
	if len(l.qkv) == 3 {
		q, k, v = l.qkv[0].Forward(a, h), l.qkv[1].Forward(a, h), l.qkv[2].Forward(a, h)
	} else {
		q, k, v = m.split(a, l.qkv[0].Forward(a, h), l.perHead)
	}
	if c.Clip > 0 {
		for _, t := range []tensor.Tensor{q, k, v} {
			for i, x := range t.Data {
				t.Data[i] = min(max(x, -c.Clip), c.Clip)
			}
		}
	}
	if l.normQ != nil && c.RotaryDim == 0 { // MPT-1B: over the whole width
		l.normQ.apply(q.Data, q.Data, q.Rows())
		l.normK.apply(k.Data, k.Data, k.Rows())
	}
	if c.RotaryDim > 0 {
		rotate(q, c.Heads, p)
		rotate(k, c.KVHeads, p)
		if l.normQ != nil { // Idefics: per head, after rotary
			l.normQ.apply(q.Data, q.Data, q.Rows()*c.Heads)
			l.normK.apply(k.Data, k.Data, k.Rows()*c.KVHeads)
		}
	}
	return q, k, v
}

// split parts the columns of a fused projection: [q | k | v], or per head [q k v].
func (m *Model) split(a *tensor.Arena, all tensor.Tensor, perHead bool) (q, k, v tensor.Tensor) {
	c := m.Config
	n, w, d := all.Rows(), c.Heads*c.HeadDim, c.HeadDim
	q, k, v = a.New(n, w), a.New(n, w), a.New(n, w)
	for r := range n {
		row := all.Row(r)
		if !perHead {
			copy(q.Row(r), row[:w])
			copy(k.Row(r), row[w:2*w])
			copy(v.Row(r), row[2*w:])
			continue
		}
		for h := range c.Heads {
			from, to := row[h*3*d:(h+1)*3*d], h*d
			copy(q.Row(r)[to:to+d], from[:d])
			copy(k.Row(r)[to:to+d], from[d:2*d])
			copy(v.Row(r)[to:to+d], from[2*d:])
		}
	}
	return q, k, v
}

// score writes the logits.
func (m *Model) score(a *tensor.Arena, logits, x tensor.Tensor, parts []Part, all bool) {
	if !all {
		last, at := a.New(len(parts), m.Config.Width), 0
		for i, p := range parts {
			at += len(p.Tokens)
			copy(last.Row(i), x.Row(at-1))
		}
		x = last
	}
	if m.final.gamma != nil {
		m.final.apply(x.Data, x.Data, x.Rows())
	}
	if m.projOut != nil {
		x = m.projOut.Forward(a, x)
	}
	w := x.Cols()
	kernel.Gemm(logits.Data, logits.Cols(), x.Data, w, x.Rows(), m.head, kernel.Epilogue{})
	for i := range logits.Rows() {
		unscored := logits.Row(i)[m.head.N():m.Config.Vocab]
		for j := range unscored {
			unscored[j] = -math.MaxFloat32
		}
	}
	if m.headExtra != nil {
		kernel.Gemm(logits.Data[m.Config.Vocab:], logits.Cols(), x.Data, w, x.Rows(), m.headExtra, kernel.Epilogue{})
	}
	if all {
		emit(a, "logits", logits)
	}
}
