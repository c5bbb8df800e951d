"""What each service code means, what helps, what the run does about it, and the source: the rows of the table."""

from __future__ import annotations

from functools import partial

from tasks.errors.codes import Code, Known, Reaction, Service, Where

CLOCK = "clock differs"  # added to the text of a refusal whose time is not this machine's
DELEGATION = "user delegation key"  # added to the text of a refusal to give one
INPUT = "of an input"  # added to the text of a refusal to list or read one

_BATCH_CODES = "Microsoft Learn: Batch status and error codes"
_BATCH_SIGN_IN = "Microsoft Learn: Authenticate requests to the Azure Batch service"
_STORAGE_CODES = "Microsoft Learn: Blob Storage and common REST API error codes"
_RESIZE_CODES = "Microsoft Learn: PoolResizeErrorCodes of the Batch SDK for .NET"
_TASK_CODES = "Microsoft Learn: TaskFailureInformationCodes of the Batch SDK for .NET"
_AADSTS = "Microsoft Learn: Microsoft Entra authentication and authorization error codes"
_QUOTAS = "Microsoft Learn: Batch service quotas and limits"

_LOGIN = "az login --tenant {tenant}"
_LOGIN_THERE = "export AZURE_TENANT_ID={tenant}; az login --tenant {tenant}"
_ADDRESS = '"$(curl --silent https://api.ipify.org)"'  # of this machine, as others see it
_BATCH_ID = "$(az batch account list --query \"[?name=='{account}'].id\" --output tsv)"
_BATCH_GROUP = "$(az batch account list --query \"[?name=='{account}'].resourceGroup\" --output tsv)"
_STORAGE_ID = "$(az storage account show --name {account} --query id --output tsv)"
_BATCH_ROLE = (
    f'az role assignment create --assignee {{principal}} --role "Azure Batch Data Contributor" --scope "{_BATCH_ID}"'
)
_STORAGE_ROLE = (
    f'az role assignment create --assignee {{principal}} --role "Storage Blob Data Contributor" --scope "{_STORAGE_ID}"'
)
_BATCH_KEYS = f'az batch account keys list --name {{account}} --resource-group "{_BATCH_GROUP}"'
_STORAGE_KEYS = "az storage account keys list --account-name {account}"
_BATCH_RULE = (
    f'az batch account network-profile network-rule add --name {{account}} --resource-group "{_BATCH_GROUP}" '
    f"--profile BatchAccount --ip-address {_ADDRESS}"
)
_STORAGE_RULE = f"az storage account network-rule add --account-name {{account}} --ip-address {_ADDRESS}"
_BATCH_WITHOUT_KEY = "unset AZURE_BATCH_ACCESS_KEY; az login"
_STORAGE_WITHOUT_KEY = (
    "unset AZURE_STORAGE_CONNECTION_STRING AZURE_STORAGE_KEY; export AZURE_STORAGE_ACCOUNT={account}; az login"
)
_SET_CLOCK = "sudo timedatectl set-ntp true"
_BATCH_QUOTA = (
    "az batch account list --query \"[?name=='{account}'].{{pools:poolQuota, jobs:activeJobAndJobScheduleQuota, "
    'dedicated:dedicatedCoreQuota, spot:lowPriorityCoreQuota}}"'
)
# The name differs between versions of az.
FAMILY_QUOTA = (
    "az batch account list --query \"[?name=='{account}'].[dedicatedCoreQuotaPerVmFamily || "
    'dedicatedCoreQuotaPerVMFamily]"'
)
_BATCH_ACCOUNTS = 'az batch account list --query "[].{{name:name, endpoint:accountEndpoint}}" --output table'
_STORAGE_ACCOUNTS = 'az storage account list --query "[].{{name:name, endpoint:primaryEndpoints.blob}}" --output table'
SIZES = 'az batch location list-skus --location {region} --query "[].name" --output tsv'
_DISKS = (
    'az batch location list-skus --location {region} --query "[].{{size:name, '
    "megabytes:capabilities[?name=='MaxResourceVolumeMB'].value | [0]}}\" --output table"
)
_NODES_RULE = "az storage account network-rule add --account-name {storage} --subnet {subnet}"
_FREE_QUOTA = (
    "delete what ended runs have left (`python -m flows.sweep --delete`), or ask the Azure portal for more quota"
)
_RETRY = "retry the run: files that are done are not processed again"
_READABLE = "put a SAS that permits to read and list (sp=rl) at the end of the input's address"
_READ_SAS = (
    "az storage container generate-sas --account-name {account} --name {container} --permissions rl "
    "--expiry {expiry} --auth-mode login --as-user"
)
_LARGER_DISK = "use a VM size with a larger temporary disk (vm_size), or fewer task slots per node"

_batch = partial(Known, service=Service.BATCH, where=Where.REQUEST, source=_BATCH_CODES)
_storage = partial(Known, service=Service.STORAGE, where=Where.REQUEST, source=_STORAGE_CODES)
_entra_id = partial(Known, service=Service.ENTRA_ID, where=Where.SIGN_IN, source=_AADSTS)
_sign_in = partial(_entra_id, reaction=Reaction.REFUSE)
_resize = partial(Known, service=Service.BATCH, where=Where.RESIZE, source=_RESIZE_CODES)
_task = partial(Known, service=Service.BATCH, where=Where.TASK, source=_TASK_CODES, reaction=Reaction.FILES_FAIL)
_refused_by_batch = partial(_batch, reaction=Reaction.REFUSE)
_refused_by_storage = partial(_storage, reaction=Reaction.REFUSE)

_REQUESTS = (
    # Who may use the Batch account.
    _refused_by_batch(
        code=Code.AUTHENTICATION_FAILED,
        detail="sharedkey is not allowed for this account",
        meaning="the Batch account takes no account keys (its authentication modes lack SharedKey)",
        advice="sign in with Entra ID instead of the key",
        command=_BATCH_WITHOUT_KEY,
        source="Azure/BatchExplorer#239",
    ),
    _refused_by_batch(
        code=Code.AUTHENTICATION_FAILED,
        detail="sharedkey is not allowed when external resources",
        meaning="a pool with a subnet or an image of one's own cannot be created with the account's key",
        advice="sign in with Entra ID instead of the key",
        command=_BATCH_WITHOUT_KEY,
        source="MicrosoftDocs/azure-docs#51092",
    ),
    _refused_by_batch(
        code=Code.AUTHENTICATION_FAILED,
        detail="wrong audience",
        meaning="the token is for another service, or for Batch in another cloud of Azure",
        advice="sign in to the cloud of the account's endpoint",
        command="az cloud list --output table",
        source="Azure/azure-sdk-for-net#8026",
    ),
    _refused_by_batch(
        code=Code.AUTHENTICATION_FAILED,
        detail="wrong issuer",
        meaning="the token is of another tenant than that of the account's subscription",
        advice="set AZURE_TENANT_ID to the tenant of the subscription and sign in there",
        command=_LOGIN_THERE,
        source="Azure/BatchExplorer#2052, where Resource Manager says it; Batch is taken to use the same words",
    ),
    _refused_by_batch(
        code=Code.AUTHENTICATION_FAILED,
        detail="expiry utc time",
        meaning="the token has expired",
        advice="sign in again",
        command=_LOGIN,
        source="the words of Resource Manager; Batch is taken to use the same",
    ),
    _refused_by_batch(
        code=Code.AUTHENTICATION_FAILED,
        detail=CLOCK,
        meaning="the clock of this machine differs from Azure's by 15 minutes or more",
        advice="set the clock",
        command=_SET_CLOCK,
        source=_BATCH_SIGN_IN,
    ),
    _refused_by_batch(
        code=Code.AUTHENTICATION_FAILED,
        meaning="the key is not one of the account's, or is damaged; with Entra ID, the token was not accepted",
        advice="set AZURE_BATCH_ACCESS_KEY to one of the account's keys",
        command=_BATCH_KEYS,
        source=_BATCH_SIGN_IN,
    ),
    *(
        _refused_by_batch(
            code=code,
            meaning="the identity that signs in has no role that permits this in the Batch account",
            advice="assign the role; it takes effect within minutes",
            command=_BATCH_ROLE,
            source=source,
        )
        for code, source in (
            (Code.PERMISSION_DENIED, "Microsoft Learn: Role-based access control for Azure Batch; the code is a guess"),
            (Code.INSUFFICIENT_PERMISSIONS, "CromwellOnAzure#450, for a linked subnet or image"),
            (Code.INSUFFICIENT_ACCOUNT_PERMISSIONS, _BATCH_CODES),
            (Code.AUTHORIZATION_FAILED, "the code of Resource Manager"),
        )
    ),
    _refused_by_batch(
        code=Code.AUTHORIZATION_FAILURE,
        meaning="the firewall of the Batch account does not let this machine in, or its public network access is off",
        advice="where public access is on, permit this machine's public address; else run inside the account's network",
        command=_BATCH_RULE,
        source="Azure/BatchExplorer#2203",
    ),
    _refused_by_batch(
        code=Code.ACCOUNT_IS_DISABLED,
        meaning="the Batch account is disabled, as where its subscription is",
        advice="enable the subscription",
        command="az account list --all --query \"[?state!='Enabled'].{{name:name, state:state}}\"",
    ),
    _refused_by_batch(
        code=Code.ACCOUNT_NOT_FOUND,
        meaning="there is no Batch account of this name in the region of its endpoint",
        advice="set AZURE_BATCH_ACCOUNT and AZURE_BATCH_ENDPOINT to one that is listed",
        command=_BATCH_ACCOUNTS,
        source="the code of Resource Manager; not in Batch's own list",
    ),
    *(
        Known(
            code=Code.HOST_NOT_FOUND,
            service=service,
            where=Where.REQUEST,
            meaning="there is no such host: the account does not exist, or is in another region or cloud",
            advice=f"set {settings} to one that is listed",
            command=command,
            reaction=Reaction.REFUSE,
            source="the name of this project where DNS does not know the host",
        )
        for service, settings, command in (
            (Service.BATCH, "AZURE_BATCH_ACCOUNT and AZURE_BATCH_ENDPOINT", _BATCH_ACCOUNTS),
            (Service.STORAGE, "the AZURE_STORAGE_* settings", _STORAGE_ACCOUNTS),
        )
    ),
    # Who may use the storage account.
    _refused_by_storage(
        code=Code.KEY_NOT_PERMITTED,
        meaning="the storage account takes no account keys (allowSharedKeyAccess is false)",
        advice="sign in with Entra ID instead of the key",
        command=_STORAGE_WITHOUT_KEY,
        source="Azure/AI-Landing-Zones#64",
    ),
    *(
        _refused_by_storage(code=code, detail=detail, meaning=meaning, advice=advice, command=command, source=source)
        for code in (Code.INVALID_AUTHENTICATION_INFO, Code.AUTHENTICATION_FAILED)  # the second until about 2020
        for detail, meaning, advice, command, source in (
            ("audience", "the token is for another service or cloud", "sign in again", _LOGIN, "Azure/AzureStor#119"),
            (
                "issuer",
                "the token is of another tenant than that of the storage account",
                "set AZURE_TENANT_ID to the tenant of the subscription and sign in there",
                _LOGIN_THERE,
                "Azure/azure-sdk-for-net#10529",
            ),
            (
                "lifetime validation failed",
                "the token has expired",
                "sign in again",
                _LOGIN,
                "Azure/azure-sdk-for-net#42859",
            ),
        )
    ),
    _refused_by_storage(
        code=Code.INVALID_AUTHENTICATION_INFO,
        meaning="the token was not accepted",
        advice="sign in again",
        command=_LOGIN,
    ),
    _refused_by_storage(
        code=Code.NO_AUTHENTICATION_INFORMATION,
        meaning="the request had no credential, and the account serves nothing without one",
        advice="sign in",
        command=_LOGIN,
        source="Azure/azure-sdk-for-net#45632",
    ),
    *(
        _refused_by_storage(
            code=Code.AUTHENTICATION_FAILED,
            detail=detail,
            meaning="the clock of this machine differs from Azure's by 15 minutes or more",
            advice="set the clock",
            command=_SET_CLOCK,
            source="Azure/azure-sdk-for-python#16192",
        )
        for detail in ("request date header too old", CLOCK)
    ),
    _refused_by_storage(
        code=Code.AUTHENTICATION_FAILED,
        meaning="the key is not one of the account's, or a SAS is damaged or has expired",
        advice="set AZURE_STORAGE_KEY or AZURE_STORAGE_CONNECTION_STRING to a key of the account",
        command=_STORAGE_KEYS,
    ),
    _refused_by_storage(
        code=Code.AUTHORIZATION_PERMISSION_MISMATCH,
        detail=DELEGATION,
        meaning="the identity that signs in may not get a user delegation key, which signs the SAS URLs for the nodes",
        advice="assign the role for the whole account, not only for a container; it takes effect within minutes",
        command=_STORAGE_ROLE,
        source="Microsoft Learn: Get User Delegation Key",
    ),
    _refused_by_storage(
        code=Code.AUTHORIZATION_PERMISSION_MISMATCH,
        meaning="the identity that signs in has no role that permits this in the storage account",
        advice="assign the role; it takes effect within minutes",
        command=_STORAGE_ROLE,
        source="skyplane-project/skyplane#354",
    ),
    _refused_by_storage(
        code=Code.AUTHORIZATION_FAILURE,
        meaning="the firewall of the storage account does not let this machine in, or its public network access is off",
        advice="where public access is on, permit this machine's public address; else run inside the account's network",
        command=_STORAGE_RULE,
        source="Azure/azure-batch-maya#39",
    ),
    _refused_by_storage(
        code=Code.AUTHORIZATION_SOURCE_IP_MISMATCH,
        meaning="the SAS is for another address than this machine's",
        advice="make a SAS without an address, or for this machine's; or use a key of the account",
        command=_STORAGE_KEYS,
    ),
    _refused_by_storage(
        code=Code.AUTHORIZATION_PROTOCOL_MISMATCH,
        meaning="the SAS is for https alone, and the endpoint begins with http",
        advice="write the endpoint with https",
        command="az storage account show --name {account} --query primaryEndpoints.blob",
    ),
    _refused_by_storage(
        code=Code.PUBLIC_ACCESS_NOT_PERMITTED,
        meaning="the account of an input permits no reading without a credential",
        advice=_READABLE,
        command=_READ_SAS,
    ),
    _refused_by_storage(
        code=Code.ACCOUNT_IS_DISABLED,
        meaning="the storage account is disabled, as where its subscription is",
        advice="enable the subscription",
        command="az account list --all --query \"[?state!='Enabled'].{{name:name, state:state}}\"",
    ),
    _refused_by_storage(
        code=Code.RESOURCE_NOT_FOUND,
        meaning="what an input names does not exist, or cannot be read without a credential",
        advice=f"check the address, or {_READABLE}",
        command=_READ_SAS,
    ),
    _refused_by_storage(
        code=Code.CONTAINER_NOT_FOUND,
        detail=INPUT,
        meaning="the container of an input does not exist",
        advice="correct its name to one that is listed",
        command='az storage container list --account-name {account} --auth-mode login --query "[].name" --output tsv',
    ),
    _refused_by_storage(
        code=Code.CONTAINER_NOT_FOUND,
        meaning="the container of kept outputs does not exist",
        advice="create it, or correct its name",
        command="az storage container create --account-name {account} --name {container} --auth-mode login",
    ),
    # What other requests hold, or a previous attempt has made.
    _batch(code=Code.POOL_EXISTS, meaning="a pool of this name exists", reaction=Reaction.ADOPT),
    _batch(code=Code.JOB_EXISTS, meaning="a job of this name exists", reaction=Reaction.ADOPT),
    _batch(code=Code.TASK_EXISTS, meaning="the Batch task was added before", reaction=Reaction.DONE),
    _storage(code=Code.CONTAINER_ALREADY_EXISTS, meaning="a container of this name exists", reaction=Reaction.ADOPT),
    _batch(code=Code.POOL_BEING_DELETED, meaning="the pool is being deleted", reaction=Reaction.WAIT),
    _batch(code=Code.JOB_BEING_DELETED, meaning="the job is being deleted", reaction=Reaction.WAIT),
    _storage(code=Code.CONTAINER_BEING_DELETED, meaning="the container is being deleted", reaction=Reaction.WAIT),
    _batch(code=Code.POOL_BEING_RESIZED, meaning="the pool is changing its size", reaction=Reaction.WAIT),
    *(
        _batch(code=code, meaning=f"the job {state}: it takes no more Batch tasks", reaction=Reaction.DONE)
        for code, state in (
            (Code.JOB_BEING_TERMINATED, "is ending"),
            (Code.JOB_COMPLETED, "has ended"),
            (Code.JOB_NOT_ACTIVE, "is not active"),
        )
    ),
    _batch(
        code=Code.POOL_QUOTA_REACHED,
        meaning="the account has as many pools as its quota permits",
        advice=_FREE_QUOTA,
        command=_BATCH_QUOTA,
        reaction=Reaction.WAIT,
        source=_QUOTAS,
    ),
    _batch(
        code=Code.ACTIVE_JOB_QUOTA_REACHED,
        meaning="the account has as many active jobs and job schedules as its quota permits",
        advice=_FREE_QUOTA,
        command=_BATCH_QUOTA,
        reaction=Reaction.WAIT,
        source=_QUOTAS,
    ),
    _batch(
        code=Code.INVALID_PROPERTY_VALUE,
        detail="vmsize",
        meaning="Batch does not offer the VM size in this region",
        advice="name sizes that are listed (vm_size)",
        command=SIZES,
        reaction=Reaction.NEXT_SIZE,
        source="Azure/doAzureParallel#299",
    ),
    _batch(
        code=Code.INVALID_PROPERTY_VALUE,
        meaning="the service does not take the value of the property that it names",
        advice="correct the setting that the property stands for",
        reaction=Reaction.FAIL,
    ),
    # What is gone, and what passes.
    *(
        _batch(code=code, meaning=f"the {thing} is gone: somebody deleted it", advice=_RETRY, reaction=Reaction.FAIL)
        for code, thing in (
            (Code.POOL_NOT_FOUND, "pool"),
            (Code.JOB_NOT_FOUND, "job"),
            (Code.TASK_NOT_FOUND, "Batch task"),
        )
    ),
    *(
        _batch(code=code, meaning=f"the {thing} is gone, and its contents with it", reaction=Reaction.DONE)
        for code, thing in ((Code.NODE_NOT_FOUND, "node"), (Code.FILE_NOT_FOUND, "file of the Batch task"))
    ),
    _storage(
        code=Code.BLOB_NOT_FOUND,
        meaning="an output or a record of it does not exist",
        reaction=Reaction.FILES_FAIL,
    ),
    _batch(
        code=Code.REQUEST_BODY_TOO_LARGE,
        meaning="too many or too large Batch tasks in one request",
        reaction=Reaction.RETRY,
    ),
    _storage(code=Code.MD5_MISMATCH, meaning="an upload was damaged on the way", reaction=Reaction.RETRY),
    _batch(code=Code.TOO_MANY_REQUESTS, meaning="too many requests in a short time", reaction=Reaction.RETRY),
    *(
        Known(code=code, service=service, where=Where.REQUEST, meaning=meaning, reaction=Reaction.RETRY, source=source)
        for service, source in ((Service.BATCH, _BATCH_CODES), (Service.STORAGE, _STORAGE_CODES))
        for code, meaning in (
            (Code.SERVER_BUSY, "the service is busy"),
            (Code.INTERNAL_ERROR, "the service failed"),
            (Code.OPERATION_TIMED_OUT, "the service did not finish in time"),
        )
    ),
)

_SIGN_INS = (
    _sign_in(
        code=Code.CREDENTIAL_UNAVAILABLE,
        meaning="nobody is signed in: no key is set, and none of the ways to Entra ID gives a token",
        advice="sign in",
        command="az login",
        source="azure-identity: DefaultAzureCredential",
    ),
    _sign_in(
        code=Code.SIGN_IN_EXPIRED,
        meaning="the sign-in has expired, because it was not used for too long",
        advice="sign in again",
        command=_LOGIN,
    ),
    _sign_in(
        code=Code.SIGN_IN_REVOKED,
        meaning="the sign-in was revoked, as after a change of the password",
        advice="sign in again",
        command=_LOGIN,
    ),
    _sign_in(
        code=Code.MFA_NEEDED,
        meaning="the tenant asks for a second factor",
        advice="sign in again, to the tenant",
        command=_LOGIN,
    ),
    _sign_in(
        code=Code.CONDITIONAL_ACCESS,
        meaning="a conditional access policy of the tenant refuses the sign-in from here",
        advice="sign in from a device or network that the policy permits",
        command=_LOGIN,
    ),
    _sign_in(
        code=Code.USER_OF_OTHER_TENANT,
        meaning="the account that is signed in is not in the tenant",
        advice="sign in to the tenant of the subscription",
        command=_LOGIN,
    ),
    _sign_in(
        code=Code.NO_SUCH_TENANT,
        meaning="there is no tenant of this name or id",
        advice="set AZURE_TENANT_ID to a tenant that is listed",
        command='az account list --query "[].{{tenant:tenantId, subscription:name}}" --output table',
    ),
    _sign_in(
        code=Code.NO_SUCH_APPLICATION,
        meaning="the tenant has no application of the id in AZURE_CLIENT_ID",
        advice="set AZURE_CLIENT_ID and AZURE_TENANT_ID to those of the application",
        command='az ad app list --show-mine --query "[].{{name:displayName, id:appId}}" --output table',
    ),
    *(
        _sign_in(
            code=code,
            meaning=meaning,
            advice="make a new secret and set AZURE_CLIENT_SECRET to it",
            command="az ad app credential reset --id {client}",
        )
        for code, meaning in (
            (Code.WRONG_SECRET, "AZURE_CLIENT_SECRET is not a secret of the application"),
            (Code.SECRET_EXPIRED, "the application's secret has expired"),
        )
    ),
    *(
        _entra_id(code=code, meaning="Entra ID is not available at the moment", reaction=Reaction.RETRY)
        for code in (Code.ENTRA_ID_BUSY, Code.ENTRA_ID_DIRECTORY_BUSY)
    ),
)

_RESIZES = (
    _resize(
        code=Code.FAMILY_CORE_QUOTA_REACHED,
        meaning="the account has no quota of cores left for the family of the VM size",
        advice="ask for a higher quota of the family in the Azure portal, or name sizes of other families (vm_size)",
        command=FAMILY_QUOTA,
        reaction=Reaction.NEXT_SIZE,
        source="Microsoft Learn: Azure Batch pool resizing failures",
    ),
    _resize(
        code=Code.ACCOUNT_CORE_QUOTA_REACHED,
        meaning="the account has no quota of dedicated cores left",
        advice="ask for a higher quota in the Azure portal, or use fewer or smaller nodes",
        command=_BATCH_QUOTA,
        reaction=Reaction.NEXT_SIZE,
    ),
    *(
        _resize(
            code=code,
            meaning="the account has no quota of spot cores left",
            advice="ask for a higher quota in the Azure portal, or use dedicated nodes",
            command=_BATCH_QUOTA,
            reaction=Reaction.NEXT_SIZE,
        )
        for code in (Code.LOW_PRIORITY_CORE_QUOTA_REACHED, Code.SPOT_CORE_QUOTA_REACHED)
    ),
    _resize(
        code=Code.ALLOCATION_FAILED,
        meaning="Azure has no capacity for the VM size in this region now",
        advice="name more sizes (vm_size), or try later",
        command=SIZES,
        reaction=Reaction.NEXT_SIZE,
    ),
    *(
        _resize(
            code=code,
            meaning="Azure did not allocate the nodes within the resize timeout",
            advice="name more sizes (vm_size), or try later",
            command=SIZES,
            reaction=Reaction.NEXT_SIZE,
        )
        for code in (Code.ALLOCATION_TIMED_OUT, Code.ALLOCATION_TIMEDOUT)
    ),
    *(
        _resize(
            code=code,
            meaning=meaning,
            advice="name sizes that are listed (vm_size)",
            command=SIZES,
            reaction=reaction,
        )
        for code, meaning, reaction in (
            (Code.UNSUPPORTED_VM_SIZE, "Batch does not offer the VM size", Reaction.NEXT_SIZE),
            (Code.INCOMPATIBLE_VM_SIZE, "the VM size does not fit the image or the pool's settings", Reaction.FAIL),
        )
    ),
    _resize(
        code=Code.RESERVED_CAPACITY_FAILED,
        meaning="Azure could not take nodes from the reserved capacity",
        reaction=Reaction.WAIT,
    ),
    _resize(
        code=Code.RESIZE_STOPPED,
        meaning="somebody stopped the resize",
        reaction=Reaction.WAIT,
        source="recorded answers of the service",
    ),
    _resize(
        code=Code.DEPENDENT_RESOURCE_NOT_FOUND,
        meaning="the subnet, image or identity that the pool names does not exist any more",
        advice="correct its id in the settings",
        command="az network vnet subnet show --ids {subnet}",
        reaction=Reaction.FAIL,
    ),
    _resize(
        code=Code.FAILED_IDENTITY_OPERATION,
        meaning="Azure could not give the pool its managed identity",
        advice="check that the identity exists",
        command="az identity list --output table",
        reaction=Reaction.FAIL,
    ),
)

_NODES = (
    Known(
        code=Code.DISK_FULL,
        service=Service.BATCH,
        where=Where.NODE,
        meaning="the node's temporary disk is full",
        advice=_LARGER_DISK,
        command=_DISKS,
        reaction=Reaction.FAIL,
        source="Microsoft Learn: Check for pool and node errors",
    ),
)

_TASKS = (
    _task(code=Code.FAILURE_EXIT_CODE, meaning="the program ended with an exit code that is not 0"),
    _task(
        code=Code.TASK_ENDED,
        meaning="the Batch task was ended: by a user, or by its time limit. Node agents from 1.11.8 on have a code of "
        "their own for the time limit, whose name is not documented: the run recognises a time limit by the time that "
        "the task took",
        advice="where it reached its time limit, raise limits.task_minutes",
        source="Azure/Batch: CHANGELOG of the node agent; " + _TASK_CODES,
    ),
    _task(
        code=Code.COMMAND_PROGRAM_NOT_FOUND,
        meaning="the program of the command line does not exist on the node",
        advice="use an image that has it; /bin/sh and python3 are needed",
    ),
    _task(
        code=Code.COMMAND_LAUNCH_FAILED,
        meaning="the command line could not be started",
        advice="use an image in which /bin/sh and python3 can be started",
    ),
    _task(
        code=Code.BLOB_NOT_FOUND,
        meaning="an input file was deleted before the node could download it",
        advice="put it back and run again",
    ),
    *(
        _task(
            code=code,
            meaning="the node may not read its input: the SAS has expired, or the storage account's firewall keeps the "
            "nodes out",
            advice="permit the nodes' subnet (subnet_id) in the storage account",
            command=_NODES_RULE,
        )
        for code in (Code.BLOB_ACCESS_DENIED, Code.RESOURCE_CONTAINER_ACCESS_DENIED)
    ),
    _task(code=Code.BLOB_DOWNLOAD_TIMED_OUT, meaning="the node could not download an input in time", advice=_RETRY),
    _task(code=Code.BLOB_DOWNLOAD_MISC_ERROR, meaning="the node could not download an input", advice=_RETRY),
    *(
        _task(
            code=code,
            meaning=f"the node could not {what} of its inputs",
            advice=f"where its temporary disk is full, {_LARGER_DISK}",
            command=_DISKS,
        )
        for code, what in (
            (Code.RESOURCE_DIRECTORY_CREATE_FAILED, "make the directory"),
            (Code.RESOURCE_FILE_CREATE_FAILED, "create the file of one"),
            (Code.RESOURCE_FILE_WRITE_FAILED, "write the file of one"),
        )
    ),
    _task(
        code=Code.DISK_FULL,
        meaning="the node's temporary disk is full",
        advice=_LARGER_DISK,
        command=_DISKS,
    ),
    _task(
        code=Code.FILE_UPLOAD_ACCESS_DENIED,
        meaning="the node may not write its output: the SAS has expired, or the storage account's firewall keeps the "
        "nodes out",
        advice="permit the nodes' subnet (subnet_id) in the storage account",
        command=_NODES_RULE,
        source="Azure/azure-sdk-for-net#7238",
    ),
    _task(
        code=Code.FILE_UPLOAD_CONTAINER_NOT_FOUND,
        meaning="the output container was deleted while the run used it",
        advice="retry the run, which creates it again",
    ),
    _task(code=Code.FILE_UPLOAD_MISC_ERROR, meaning="the node could not upload an output", advice=_RETRY),
    *(
        _task(code=code, meaning=meaning, advice=advice)
        for code, meaning, advice in (
            (
                Code.CONTAINER_INVALID_IMAGE,
                "the container image does not exist, or cannot be pulled",
                "correct container_image, or name its registry in container_registry",
            ),
            (
                Code.CONTAINER_INVALID_REGISTRY,
                "the container registry is not valid",
                "correct the block that container_registry names",
            ),
            (Code.CONTAINER_INVALID_SETTINGS, "the container's settings are not valid", "correct container_image"),
        )
    ),
    _task(
        code=Code.CONTAINER_MISC_ERROR,
        meaning="the Batch task could not run in its container",
        advice="try the image on this machine",
        command="docker run --rm --entrypoint /bin/sh {image} -c 'python3 --version'",
    ),
)

_JOBS = (
    Known(
        code=Code.JOB_TIME_LIMIT,
        service=Service.BATCH,
        where=Where.JOB,
        meaning="the job reached its time limit",
        advice="raise limits.run_minutes",
        reaction=Reaction.FAIL,
        source="Microsoft Learn: Azure Batch job and task errors",
    ),
    Known(
        code=Code.ALL_TASKS_COMPLETE,
        service=Service.BATCH,
        where=Where.JOB,
        meaning="all its Batch tasks have ended",
        reaction=Reaction.DONE,
        source="the Batch SDK's documentation",
    ),
)

KNOWN: tuple[Known, ...] = _REQUESTS + _SIGN_INS + _RESIZES + _NODES + _TASKS + _JOBS
