// Command cluster is the lab's Kubernetes: every component of a control plane and of a node in one program.
//
// The first argument names the component, the rest are its own flags, so that
// `cluster kube-apiserver --help` is what the upstream program prints. It exists because the lab
// runs without a container engine or an image registry: the Go module proxy is enough to build it.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics, as upstream's commands register them
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// components are upstream's commands by name.
var components = map[string]func() *cobra.Command{
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": controllermanager.NewControllerManagerCommand,
	"kube-proxy":              func() *cobra.Command { return proxy.NewProxyCommand() },
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
	"kubectl":                 kubectl.NewDefaultKubectlCommand,
}

func main() {
	// A link named after a component runs that component (`kubectl` beside this program).
	if name := filepath.Base(os.Args[0]); name == "etcd" || components[name] != nil {
		run(name, os.Args)
	}
	if len(os.Args) < 2 {
		usage()
	}
	run(os.Args[1], os.Args[1:])
}

func run(name string, args []string) {
	os.Args = args
	if name == "etcd" {
		etcdmain.Main(args)
		os.Exit(0)
	}
	command, known := components[name]
	if !known {
		usage()
	}
	os.Exit(cli.Run(command()))
}

func usage() {
	names := []string{"etcd"}
	for name := range components {
		names = append(names, name)
	}
	sort.Strings(names)
	fmt.Fprintf(os.Stderr, "usage: cluster {%s} [flags]\n", strings.Join(names, "|"))
	os.Exit(2)
}
