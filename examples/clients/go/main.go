// A service that opens a security group for a while, looks, and closes it again, by gRPC over mTLS.
//
//	client HOST:PORT CA CERTIFICATE KEY GROUP ADDRESS PORT
//
// Nothing here is the product's: the stubs are generated from proto/ (see docs/quickstart/service.md).
package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/ioutil"
	"net"
	"os"
	"time"

	"github.com/golang/protobuf/ptypes"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	pb "whitelistmcp.example/pb/whitelistmcp/v1"
)

const (
	// How long one call may take. The core ends it after 60 s whatever a caller says.
	callTimeout = 20 * time.Second
	// How often, and for how long, a call that was told to come back does so.
	attempts = 4
	patience = time.Minute
)

func main() {
	if len(os.Args) != 8 {
		fmt.Fprintln(os.Stderr, "usage: client HOST:PORT CA CERTIFICATE KEY GROUP ADDRESS PORT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5], os.Args[6], os.Args[7]); err != nil {
		explain(err)
		os.Exit(1)
	}
}

func run(target, ca, certificate, key, group, address, port string) error {
	connection, err := connect(target, ca, certificate, key)
	if err != nil {
		return err
	}
	defer connection.Close()
	client := pb.NewWhitelistServiceClient(connection)

	// The same word with every attempt of one change: carried out once, however often it is sent.
	word := make([]byte, 12)
	if _, err := rand.Read(word); err != nil {
		return err
	}
	add := &pb.AddRuleRequest{
		SecurityGroup: group, Address: address, Port: port, Reason: "example client in Go", Duration: "30m",
		IdempotencyKey: fmt.Sprintf("go-%x", word),
	}
	var opened *pb.AddRuleResponse
	err = again(func(ctx context.Context) (err error) {
		opened, err = client.AddRule(ctx, add)
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("add: %s %s until %s\n", opened.GetOutcome(), opened.GetRule().GetRuleId(), opened.GetUntil())

	var checked *pb.CheckAccessResponse
	err = again(func(ctx context.Context) (err error) {
		checked, err = client.CheckAccess(ctx, &pb.CheckAccessRequest{SecurityGroup: group, Address: address, Port: port})
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("check: %s\n", checked.GetVerdict())

	var listed *pb.ListRulesResponse
	err = again(func(ctx context.Context) (err error) {
		listed, err = client.ListRules(ctx, &pb.ListRulesRequest{SecurityGroup: group, ManagedOnly: true})
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("list: %d\n", listed.GetTotal())

	var removed *pb.RemoveRulesResponse
	remove := &pb.RemoveRulesRequest{SecurityGroup: group, RuleId: opened.GetRule().GetRuleId(), Reason: "done"}
	err = again(func(ctx context.Context) (err error) {
		removed, err = client.RemoveRules(ctx, remove)
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("remove: %s\n", removed.GetOutcome())
	return nil
}

// connect trusts the core's CA alone, and shows the certificate that says which service this is.
func connect(target, ca, certificate, key string) (*grpc.ClientConn, error) {
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return nil, err
	}
	pem, err := ioutil.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", ca)
	}
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: host, MinVersion: tls.VersionTLS13,
	}
	return grpc.Dial(target, grpc.WithTransportCredentials(credentials.NewTLS(config)))
}

// again makes a call, and makes it again where the core says when that may help.
func again(call func(context.Context) error) error {
	end := time.Now().Add(patience)
	for attempt := 1; ; attempt++ {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		err := call(ctx)
		cancel()
		wait, told := retryAfter(err)
		if err == nil || !told || attempt == attempts || time.Now().Add(wait).After(end) {
			return err
		}
		fmt.Fprintf(os.Stderr, "told to come back in %s\n", wait)
		time.Sleep(wait)
	}
}

// retryAfter says how long to wait, if waiting may help at all.
func retryAfter(err error) (time.Duration, bool) {
	for _, detail := range status.Convert(err).Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			if wait, err := ptypes.Duration(retry.GetRetryDelay()); err == nil {
				return wait, true
			}
		}
	}
	return 0, false
}

// explain prints what a program can act on: the class, the stable reason, the field that is wrong.
func explain(err error) {
	told, ok := status.FromError(err)
	if !ok || told.Code() == codes.OK {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	fmt.Fprintf(os.Stderr, "%s: %s\n", told.Code(), told.Message())
	for _, detail := range told.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			fmt.Fprintf(os.Stderr, "reason: %s\n", detail.GetReason())
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				fmt.Fprintf(os.Stderr, "field: %s\n", violation.GetField())
			}
		}
	}
}
