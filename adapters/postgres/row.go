package postgres

// Columns of an outbox row, in the order storage.Row reads them.
const (
	rowWidth            = 10
	rowColumns          = `o.seq, o.id::text, o.topic, o."key", o.gid, o.content_type, o.headers::text, o.created_at, octet_length(o.payload), o.payload`
	rowColumnsNoPayload = `o.seq, o.id::text, o.topic, o."key", o.gid, o.content_type, o.headers::text, o.created_at, octet_length(o.payload), NULL::bytea`
)

// notNil makes of nil, which would be NULL, an empty value.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
