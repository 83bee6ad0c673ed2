package forward

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// otlp posts a batch as OTLP/HTTP (1.5) has it, in protobuf, gzipped. An
// ExportLogsServiceRequest has the one field of LogsData, and so is it on the wire;
// the package of the former would bring gRPC along (docs/adr/051).
type otlp struct{}

func (otlp) request(batch []event, _ time.Time) (*request, error) {
	records := make([]*logs.LogRecord, len(batch))
	for i, ev := range batch {
		records[i] = logRecord(ev.text)
	}
	body, err := proto.Marshal(&logs.LogsData{ResourceLogs: []*logs.ResourceLogs{{
		Resource:  &resource.Resource{Attributes: []*common.KeyValue{{Key: "service.name", Value: text("sallyport")}}},
		ScopeLogs: []*logs.ScopeLogs{{Scope: &common.InstrumentationScope{Name: "sallyport.audit"}, LogRecords: records}},
	}}})
	if err != nil {
		return nil, fmt.Errorf("the batch could not be written: %w", err)
	}
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, err = w.Write(body)
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("the batch could not be packed: %w", err)
	}
	return &request{body: zipped.Bytes(), header: http.Header{"Content-Type": {"application/x-protobuf"}, "Content-Encoding": {"gzip"}}}, nil
}

// logRecord is a line: the body is the line as it is, its fields are attributes.
func logRecord(line []byte) *logs.LogRecord {
	r := &logs.LogRecord{Body: text(string(line))}
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber()
	var fields map[string]any
	if dec.Decode(&fields) != nil {
		return r // whatever it is, its text is there
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		r.Attributes = append(r.Attributes, &common.KeyValue{Key: strings.ToValidUTF8(name, "\uFFFD"), Value: attribute(fields[name])})
	}
	if s, ok := fields["time"].(string); ok {
		if t, err := time.Parse(time.RFC3339Nano, s); err == nil && t.Unix() > 0 && t.Year() < 2262 {
			r.TimeUnixNano = uint64(t.UnixNano())
			r.ObservedTimeUnixNano = r.TimeUnixNano
		}
	}
	r.EventName, _ = fields["event"].(string)
	code, _ := fields["code"].(string)
	r.SeverityNumber, r.SeverityText = severity(code)
	return r
}

// severity is that of a code's letter.
func severity(code string) (logs.SeverityNumber, string) {
	switch {
	case strings.HasSuffix(code, "E"):
		return logs.SeverityNumber_SEVERITY_NUMBER_ERROR, "ERROR"
	case strings.HasSuffix(code, "W"):
		return logs.SeverityNumber_SEVERITY_NUMBER_WARN, "WARN"
	}
	return logs.SeverityNumber_SEVERITY_NUMBER_INFO, "INFO"
}

func text(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: strings.ToValidUTF8(s, "\uFFFD")}}
}

// attribute is a field's value; lists and objects are JSON, as many receivers take flat
// ones alone.
func attribute(v any) *common.AnyValue {
	switch v := v.(type) {
	case string:
		return text(v)
	case bool:
		return &common.AnyValue{Value: &common.AnyValue_BoolValue{BoolValue: v}}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: n}}
		}
		if f, err := v.Float64(); err == nil {
			return &common.AnyValue{Value: &common.AnyValue_DoubleValue{DoubleValue: f}}
		}
		return text(v.String())
	case nil:
		return text("")
	}
	b, err := json.Marshal(v)
	if err != nil {
		return text("")
	}
	return text(string(b))
}

// answer reads an ExportLogsServiceResponse: field 1 is partial_success, with
// rejected_log_records (1) and error_message (2).
func (otlp) answer(body []byte) (a answer) {
	partial := fields(body)[1].bytes
	if partial == nil {
		return a
	}
	of := fields(partial)
	if n := int64(of[1].number); n > 0 { //nolint:gosec // it is an int64 on the wire
		a.rejected = uint64(n)
	}
	a.message = string(of[2].bytes)
	return a
}

// field is the value of a message's field.
type field struct {
	number uint64
	bytes  []byte
}

// fields reads a message, as far as it can be read.
func fields(b []byte) map[protowire.Number]field {
	out := map[protowire.Number]field{}
	for len(b) > 0 {
		number, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return out
		}
		b = b[n:]
		var f field
		switch typ {
		case protowire.VarintType:
			f.number, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(number, typ, b)
		}
		if n < 0 {
			return out
		}
		out[number], b = f, b[n:]
	}
	return out
}
