locals {
  edge_port   = 8080
  core_port   = 8443
  health_port = 8082
  core_name   = "core.${var.namespace}"

  # SIGTERM is the first that a task on Spot hears of its end, two minutes ahead: it goes on serving for `lame_duck`, in which ECS takes it
  # out of the load balancer, and then has `grace` for what runs. Fargate kills 120 s after SIGTERM at the latest.
  edge_shutdown = { lame_duck = 30, grace = 75, stop_timeout = 120 }
  core_shutdown = { lame_duck = 15, grace = 65, stop_timeout = 90 }

  files = "/etc/whitelistmcp"

  # === What both are told, in variables. The configuration file is empty: /dev/null. ===

  common_environment = merge(
    {
      WHITELISTMCP_CONFIG                      = "/dev/null"
      WHITELISTMCP_HEALTH__LISTEN              = "127.0.0.1:${local.health_port}"
      WHITELISTMCP_OIDC__COMPANY__ISSUER       = var.issuer.url
      WHITELISTMCP_OIDC__COMPANY__AUDIENCE     = coalesce(var.issuer.audience, var.public_url)
      WHITELISTMCP_OIDC__COMPANY__GROUPS_CLAIM = var.issuer.groups_claim
      AWS_REGION                               = data.aws_region.current.region
    },
    var.redis == null ? {} : {
      WHITELISTMCP_REDIS__URL           = try(var.redis.url, "")
      WHITELISTMCP_REDIS__PASSWORD_FILE = "${local.files}/redis-password"
    },
  )

  edge_environment = merge(
    local.common_environment,
    {
      WHITELISTMCP_EDGE__LISTEN     = "0.0.0.0:${local.edge_port}"
      WHITELISTMCP_EDGE__PUBLIC_URL = var.public_url
      # Whoever stands in these subnets is believed about whom it speaks for.
      WHITELISTMCP_EDGE__TRUSTED_PROXIES      = jsonencode([for subnet in data.aws_subnet.load_balancer : subnet.cidr_block])
      WHITELISTMCP_EDGE__TLS__CERTIFICATE     = "${local.files}/certs/edge.pem"
      WHITELISTMCP_EDGE__TLS__KEY             = "${local.files}/certs/edge.key"
      WHITELISTMCP_EDGE__SEALING_KEY          = "${local.files}/sealing.key"
      WHITELISTMCP_EDGE__BACKEND__ADDRESS     = "${local.core_name}:${local.core_port}"
      WHITELISTMCP_EDGE__BACKEND__CERTIFICATE = "${local.files}/certs/edge.pem"
      WHITELISTMCP_EDGE__BACKEND__KEY         = "${local.files}/certs/edge.key"
      WHITELISTMCP_EDGE__BACKEND__CA          = "${local.files}/certs/ca.pem"
      WHITELISTMCP_SHUTDOWN__LAME_DUCK        = "${local.edge_shutdown.lame_duck}s"
      WHITELISTMCP_SHUTDOWN__GRACE            = "${local.edge_shutdown.grace}s"
    },
    var.environment,
    var.edge_environment,
  )

  core_environment = merge(
    local.common_environment,
    {
      WHITELISTMCP_CORE__LISTEN           = "0.0.0.0:${local.core_port}"
      WHITELISTMCP_CORE__TLS__CERTIFICATE = "${local.files}/certs/core.pem"
      WHITELISTMCP_CORE__TLS__KEY         = "${local.files}/certs/core.key"
      WHITELISTMCP_CORE__CLIENT_CA        = "${local.files}/certs/ca.pem"
      # A value that reads as TOML is TOML, and an inline table of TOML is an object of JSON with = for the colon behind each key. No key
      # or value has a quotation mark of its own, so `":` stands nowhere else.
      WHITELISTMCP_CORE__PEERS = replace(jsonencode(concat(
        [{ san = var.edge_identity, role = "edge" }],
        [for service in var.services : { san = service.san, role = "service", scopes = service.scopes }],
      )), "\":", "\"=")
      WHITELISTMCP_AWS__ACCOUNTS       = replace(jsonencode([for account in var.accounts : { for key, value in account : key => value if value != null }]), "\":", "\"=")
      WHITELISTMCP_TARGETS__ACCOUNT    = var.accounts[0].id
      WHITELISTMCP_TARGETS__REGION     = var.accounts[0].regions[0]
      WHITELISTMCP_TARGETS__GROUPS     = replace(jsonencode([for group in var.groups : { for key, value in group : key => value if value != null }]), "\":", "\"=")
      WHITELISTMCP_AUDIT__DIRECTORY    = "/var/lib/whitelistmcp/journal"
      WHITELISTMCP_AUDIT__SIGNING_KEY  = "${local.files}/journal.pem"
      WHITELISTMCP_SHUTDOWN__LAME_DUCK = "${local.core_shutdown.lame_duck}s"
      WHITELISTMCP_SHUTDOWN__GRACE     = "${local.core_shutdown.grace}s"
    },
    var.policy == null ? {} : { WHITELISTMCP_POLICY__FILE = "${local.files}/policy.cedar" },
    var.environment,
    var.core_environment,
  )

  # === Secrets, which must be files ===

  # The image has no shell, and the service reads certificates and keys from files. So ECS hands them to a small container that runs first,
  # as variables, and that writes them to a volume of the task which nothing but this task ever sees. It makes no call to AWS: no role of
  # a running task needs to read a secret.
  secrets = {
    edge = distinct(concat([var.edge_secret_arn], var.redis == null ? [] : [try(var.redis.password_secret_arn, "")], [for file in var.extra_files.edge : file.secret_arn]))
    core = distinct(concat([var.core_secret_arn], var.redis == null ? [] : [try(var.redis.password_secret_arn, "")], [for file in var.extra_files.core : file.secret_arn]))
  }

  # FILE_1 is a file's text, and FILE_1_PATH its name; FILE_2 the next one's.
  extra_secrets = {
    for service, files in var.extra_files : service => [
      for number, name in keys(files) : {
        name      = "FILE_${number + 1}"
        valueFrom = files[name].json_key == null ? files[name].secret_arn : "${files[name].secret_arn}:${files[name].json_key}::"
      }
    ]
  }

  extra_paths = {
    for service, files in var.extra_files : service => [for number, name in keys(files) : { name = "FILE_${number + 1}_PATH", value = name }]
  }

  redis_secret = var.redis == null ? [] : [{ name = "REDIS_PASSWORD", valueFrom = try(var.redis.password_secret_arn, "") }]

  edge_secrets = concat([
    { name = "CERTIFICATE", valueFrom = "${var.edge_secret_arn}:certificate::" },
    { name = "KEY", valueFrom = "${var.edge_secret_arn}:key::" },
    { name = "CA", valueFrom = "${var.edge_secret_arn}:ca::" },
    { name = "SEALING_KEY", valueFrom = "${var.edge_secret_arn}:sealing_key::" },
  ], local.redis_secret, local.extra_secrets["edge"])

  core_secrets = concat([
    { name = "CERTIFICATE", valueFrom = "${var.core_secret_arn}:certificate::" },
    { name = "KEY", valueFrom = "${var.core_secret_arn}:key::" },
    { name = "CA", valueFrom = "${var.core_secret_arn}:ca::" },
    { name = "SIGNING_KEY", valueFrom = "${var.core_secret_arn}:signing_key::" },
  ], local.redis_secret, local.extra_secrets["core"])

  write_files = file("${path.module}/write-files.sh")

  mounts = {
    files   = { sourceVolume = "files", containerPath = local.files, readOnly = true }
    journal = { sourceVolume = "journal", containerPath = "/var/lib/whitelistmcp", readOnly = false }
  }

  # The same of both containers of both tasks.
  files_container = {
    name                   = "files"
    image                  = var.files_image
    essential              = false
    command                = ["sh", "-c", local.write_files]
    user                   = "0:0"
    readonlyRootFilesystem = true
    mountPoints            = [merge(local.mounts.files, { readOnly = false })]
    # What root keeps is what `chown` needs, and the files that it then no longer owns.
    linuxParameters = { capabilities = { drop = ["AUDIT_WRITE", "DAC_OVERRIDE", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"] } }
  }

  service_container = {
    image                  = var.image
    essential              = true
    user                   = "65532:65532"
    readonlyRootFilesystem = true
    linuxParameters        = { capabilities = { drop = ["ALL"] } }
    dependsOn              = [{ containerName = "files", condition = "SUCCESS" }]
    healthCheck = {
      command     = ["CMD", "/usr/local/bin/whitelistmcp", "health"]
      interval    = 30
      timeout     = 10
      retries     = 3
      startPeriod = 30
    }
  }

  logs = {
    for service in ["edge", "core"] : service => {
      logDriver = "awslogs"
      options = {
        awslogs-group         = "/${var.name}/${service}"
        awslogs-region        = data.aws_region.current.region
        awslogs-stream-prefix = service
      }
    }
  }

  edge_containers = [
    merge(local.files_container, {
      environment      = concat([{ name = "SERVICE", value = "edge" }], local.extra_paths["edge"])
      secrets          = local.edge_secrets
      logConfiguration = local.logs["edge"]
    }),
    merge(local.service_container, {
      name             = "edge"
      command          = ["edge"]
      environment      = [for name, value in local.edge_environment : { name = name, value = value }]
      portMappings     = [{ containerPort = local.edge_port, protocol = "tcp" }]
      mountPoints      = [local.mounts.files]
      stopTimeout      = local.edge_shutdown.stop_timeout
      logConfiguration = local.logs["edge"]
    }),
  ]

  core_containers = [
    merge(local.files_container, {
      environment      = concat([{ name = "SERVICE", value = "core" }, { name = "POLICY", value = var.policy == null ? "" : var.policy }], local.extra_paths["core"])
      secrets          = local.core_secrets
      logConfiguration = local.logs["core"]
    }),
    merge(local.service_container, {
      name             = "core"
      command          = ["core"]
      environment      = [for name, value in local.core_environment : { name = name, value = value }]
      portMappings     = [{ containerPort = local.core_port, protocol = "tcp" }]
      mountPoints      = [local.mounts.files, local.mounts.journal]
      stopTimeout      = local.core_shutdown.stop_timeout
      logConfiguration = local.logs["core"]
    }),
  ]
}

resource "aws_ecs_task_definition" "edge" {
  family                   = "${var.name}-edge"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.edge_size.cpu
  memory                   = var.edge_size.memory
  execution_role_arn       = aws_iam_role.execution["edge"].arn
  container_definitions    = jsonencode(local.edge_containers)
  tags                     = var.tags

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.architecture
  }

  volume {
    name = "files"
  }
}

resource "aws_ecs_task_definition" "core" {
  family                   = "${var.name}-core"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.core_size.cpu
  memory                   = var.core_size.memory
  execution_role_arn       = aws_iam_role.execution["core"].arn
  task_role_arn            = aws_iam_role.core.arn
  container_definitions    = jsonencode(local.core_containers)
  tags                     = var.tags

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.architecture
  }

  volume {
    name = "files"
  }

  volume {
    name = "journal"

    efs_volume_configuration {
      file_system_id     = module.journal.file_system_id
      transit_encryption = "ENABLED"

      authorization_config {
        access_point_id = module.journal.access_point_id
        # The file system's policy goes by the access point, so the base role need not be let in.
        iam = "DISABLED"
      }
    }
  }
}
