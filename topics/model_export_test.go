package topics

import "context"

// ModelSettle is what Run's retries call; the simulation calls it instead.
func (o *Owner) ModelSettle(ctx context.Context) error { return o.settle(ctx) }

// ModelEncodeDeclaration writes a declaration as a service does.
func ModelEncodeDeclaration(d Declaration) ([]byte, error) { return d.encode() }
