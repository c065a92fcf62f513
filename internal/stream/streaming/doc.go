// Package streaming carries messages over NATS Streaming, the server that JetStream replaced, for those who still run it.
//
// A Conn owns one connection to NATS and, on it, one session of NATS Streaming at a time. A session that is lost, with the
// connection or because the server knows it no more, never comes back: it is replaced by a new one with the same client
// id, and what was not acknowledged is sent or handed out again.
//
// What a carrier promises (package stream) holds with these differences, all of them NATS Streaming's:
//
//   - There is one subject, the topic, so a subject proves nobody's name, and there are no rights to single publishers.
//   - Messages for other subjects are refused: what a spool holds for JetStream is of no use here.
//   - A publish has no sequence in its Result, and a message sent again after an unknown outcome may be stored twice.
//   - A consumer is never told how far it has come: Floor is empty. Nothing can be read without consuming it, and there is
//     no registry of schemas; so only messages that stand alone (format 1) make sense here.
//   - InProgress does nothing: a message that is not acknowledged within AckWait is handed out again. Who still holds it
//     has nothing to do but to use the newer Ack.
//   - A right that is missing shows as silence; the denial is logged with its subject.
package streaming
