package pipeline

import (
	"context"

	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
)

// CaseRunner is a Model that can run the raw inputs of a reference case and emit every stage
// through the arena's Trace.
type CaseRunner interface {
	RunCase(ctx context.Context, a *tensor.Arena, in perceiver.CaseInput) error
}

// perceiverCase gives a model its network's RunCase.
type perceiverCase struct{ net perceiver.Network }

// RunCase implements CaseRunner.
func (p perceiverCase) RunCase(ctx context.Context, a *tensor.Arena, in perceiver.CaseInput) error {
	return p.net.RunCase(ctx, a, in)
}
