//! What Waxwing may do beyond `deploy/rbac.yaml`, as the page HTTP-01 lists it.

/// For `http01.ingress.name`.
pub const IN_PLACE: &str = r"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: waxwing-in-place}
rules:
- {apiGroups: [networking.k8s.io], resources: [ingresses], verbs: [get, patch]}
- {apiGroups: [''], resources: [services], verbs: [list, create, patch, delete]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, create, patch, delete]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: waxwing-in-place}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: waxwing-in-place}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: waxwing}]
";

/// For `http01.gatewayHTTPRoute`.
pub const GATEWAY: &str = r"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: waxwing-gateway}
rules:
- {apiGroups: [gateway.networking.k8s.io], resources: [httproutes], verbs: [get, list, create, patch, delete]}
- {apiGroups: [gateway.networking.k8s.io], resources: [referencegrants], verbs: [list, create, patch, delete]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: waxwing-gateway}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: waxwing-gateway}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: waxwing}]
";

/// For `responder: Pod`.
pub const PODS: &str = r"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: waxwing-pods}
rules:
- {apiGroups: [''], resources: [pods], verbs: [list, watch, create, patch, delete]}
- {apiGroups: [''], resources: [services], verbs: [list, create, patch, delete]}
- {apiGroups: [networking.k8s.io], resources: [ingresses], verbs: [get, create, patch, delete]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: waxwing-pods}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: waxwing-pods}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: waxwing}]
";
